"""Python's huggingface_hub and this project's client share one cache: each finds what the other one downloaded.

Needs Python with huggingface_hub (pip install huggingface_hub), and the two examples, built by
`cargo build -p ocelli-hub --examples`. No network is used beside loopback.

    python tests/clients/hub_cache.py [target/debug/examples]
"""

import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

examples = Path(sys.argv[1] if len(sys.argv) > 1 else "target/debug/examples").resolve()
work = Path(tempfile.mkdtemp(prefix="ocelli-clients-"))
repo = "user/Model-GGUF"
contents = {
    "README.md": b"read me",
    "Model-Q4_K_M.gguf": random.Random(1).randbytes(5_000_000),
    "Model-Q8_0.gguf": random.Random(2).randbytes(3_000_000),
    "mmproj-model-f16.gguf": random.Random(3).randbytes(2_000_000),
    "small-F16.gguf": b"a small file that the hub sends itself",
}
files = work / "files"
files.mkdir()
for name, data in contents.items():
    (files / name).write_bytes(data)

server = subprocess.Popen([examples / "loopback_hub", files, repo], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
endpoint = server.stdout.readline().strip()

# Read when the package is imported.
os.environ.update(HF_ENDPOINT=endpoint, HF_HOME=str(work / "hf"), HF_HUB_DISABLE_TELEMETRY="1", HF_HUB_DISABLE_PROGRESS_BARS="1")
for variable in ("HF_TOKEN", "HF_HUB_CACHE", "HF_HUB_OFFLINE", "OCELLI_CACHE"):
    os.environ.pop(variable, None)

import filelock  # noqa: E402
import huggingface_hub  # noqa: E402
from huggingface_hub import hf_hub_download, scan_cache_dir, snapshot_download  # noqa: E402

cache = work / "hf" / "hub"


def pull(name, **env):
    done = subprocess.run([examples / "pull", name], env={**os.environ, **env}, capture_output=True, text=True, check=False)
    return done, [Path(line) for line in done.stdout.split("\n") if line]


# What we download, Python finds, without asking the hub.
done, paths = pull(repo)
assert done.returncode == 0, done.stderr
assert [p.name for p in paths] == ["Model-Q4_K_M.gguf", "mmproj-model-f16.gguf"], paths
for name in ("Model-Q4_K_M.gguf", "mmproj-model-f16.gguf"):
    found = Path(hf_hub_download(repo, name, local_files_only=True))
    assert found == next(p for p in paths if p.name == name), found
    assert found.read_bytes() == contents[name], name
inode = paths[0].stat().st_ino
assert Path(hf_hub_download(repo, "Model-Q4_K_M.gguf")).stat().st_ino == inode, "Python fetched it again"

# What Python downloads, we find, without asking the hub.
theirs = Path(hf_hub_download(repo, "Model-Q8_0.gguf"))
done, paths = pull(repo + ":q8_0", HF_HUB_OFFLINE="1")
assert done.returncode == 0, done.stderr
assert paths[0] == theirs and paths[0].read_bytes() == contents["Model-Q8_0.gguf"], paths

# Small files have git's checksum as their name in both.
done, paths = pull(repo + ":F16")
assert done.returncode == 0, done.stderr
ours = paths[0].resolve()
assert Path(hf_hub_download(repo, "small-F16.gguf")).resolve() == ours
ours.unlink()
assert Path(hf_hub_download(repo, "small-F16.gguf", force_download=True)).resolve() == ours

# A whole snapshot goes through the same cache, and Python sees nothing odd in it.
snapshot_download(repo)
report = scan_cache_dir()
assert not report.warnings, report.warnings
(cached,) = report.repos
assert cached.repo_id == repo and cached.nb_files == len(contents), cached

# While Python holds a file's lock, we wait.
other = work / "other"
blob = next(p for p in (cache / "models--user--Model-GGUF" / "blobs").iterdir() if p.stat().st_size == 5_000_000).name
lock = other / ".locks" / "models--user--Model-GGUF" / f"{blob}.lock"
lock.parent.mkdir(parents=True)
with filelock.FileLock(lock):
    waiting = subprocess.Popen([examples / "pull", repo], env={**os.environ, "HF_HUB_CACHE": str(other)}, stdout=subprocess.DEVNULL)
    time.sleep(1.5)
    assert waiting.poll() is None, "the lock was not respected"
    assert not (other / "models--user--Model-GGUF" / "blobs" / blob).exists()
assert waiting.wait(timeout=30) == 0

server.stdin.close()
server.wait(timeout=10)
print(f"huggingface_hub {huggingface_hub.__version__}: all as it should be")
