"""From conversations to what the model is fed: token ids with room for the rows of pictures, and patches.

The layout is the reference's: every picture `<image_id>k</image_id><image>` rows `</image>`, then its tiles as `<slice>`
rows `</slice>` with a line feed between two rows of tiles, then a line feed; frames of a video have no id and no tiles.
Ids are had from tokenizer.json as it is, over the text of the chat template.
"""

import functools
import pathlib

from tokenizers import Tokenizer

import slicing
from config import Config

QUERIES = Config.query_num


def place_holder(plan, number):
    rows = "<unk>" * QUERIES
    head = f"<image_id>{number}</image_id>" if number is not None else ""
    tiles = "\n".join([f"<slice>{rows}</slice>" * plan.columns] * plan.rows)
    return f"{head}<image>{rows}</image>{tiles}\n"


class Prompts:
    """Knows the tokenizer in a folder."""

    def __init__(self, folder):
        self.tokenizer = Tokenizer.from_file(str(pathlib.Path(folder) / "tokenizer.json"))
        self.end = self.tokenizer.token_to_id("<|im_end|>")
        self.start = self.tokenizer.token_to_id("<|im_start|>")

    @functools.lru_cache(100_000)
    def fragment(self, text):
        """Ids of text between special tokens; pieces never reach over those."""
        return self.tokenizer.encode(text, add_special_tokens=False).ids

    def asking(self, question):
        """Ids of a question and of what leads to its answer."""
        return [*self.fragment(f"<|im_start|>user\n{question}<|im_end|>\n"), *self.fragment("<|im_start|>assistant\n")]

    def ids(self, plans, is_video, turns):
        """Ids of the conversation, and for each the number of the turn that the model says it in, or -1. The last answer
        may be None: then the ids are the prompt for it."""
        shown = "".join(place_holder(plan, None if is_video else k) for k, plan in enumerate(plans))
        lead = len(self.fragment("<|im_start|>assistant\n"))
        ids, said = [1], [-1]
        for number, (question, answer) in enumerate(turns):
            new = self.asking(f"{shown}{question}")
            ids += new
            said += [-1] * len(new)
            shown = ""
            if answer is None:
                break
            # The answer continues the fragment "assistant\n", so it gets no space before it.
            new = self.fragment(f"<|im_start|>assistant\n{answer}<|im_end|>\n")[lead:]
            end = new.index(self.end) + 1
            ids += new
            said += [number] * end + [-1] * (len(new) - end)
        return ids, said

    def text(self, ids):
        return self.tokenizer.decode(ids)


def pictures(images, is_video):
    """Plans and patches of all slices, in order: [(rows, columns, patches)]."""
    plans, out = [], []
    for image in images:
        made, parts = slicing.slices(image, 1 if is_video else slicing.MOST)
        plans.append(made)
        out += [slicing.patches(part) for part in parts]
    return plans, out
