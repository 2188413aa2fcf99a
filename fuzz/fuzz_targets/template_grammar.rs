//! Renders conversations with templates that are always well-formed: each byte chooses a rule of a grammar, so that inputs
//! spend their time in the interpreter instead of its parser. They are rendered as those of strangers are, by a process of
//! their own, which is this program once more: whatever a template does, an answer comes in time.
#![no_main]

use std::fmt::Write as _;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use libfuzzer_sys::fuzz_target;
use ocelli_fuzz::Bytes;
use ocelli_text::template::{ChatTemplate, Message, RenderOptions, Worker, run_if_asked};

static WORKER: OnceLock<Worker> = OnceLock::new();

/// Deepest nesting of blocks and expressions.
const DEPTH: usize = 12;

const NAMES: [&str; 12] =
    ["a", "b", "c", "ns", "ns.x", "ns.y", "m", "messages", "loop.index", "loop.length", "bos_token", "caller"];
const FILTERS: [&str; 40] = [
    "abs",
    "attr('x')",
    "batch(3)",
    "batch(2, 'x')",
    "bool",
    "capitalize",
    "count",
    "d('x')",
    "dictsort",
    "escape",
    "first",
    "float",
    "format(a, b)",
    "groupby('role')",
    "indent(2)",
    "int",
    "items",
    "join(', ')",
    "last",
    "length",
    "list",
    "lower",
    "map(attribute='role')",
    "max",
    "min",
    "pprint",
    "reject('odd')",
    "replace('a', 'aaaaaaaa')",
    "replace('', 'b')",
    "reverse",
    "round(2)",
    "selectattr('role', 'eq', 'user')",
    "slice(3)",
    "sort",
    "split('a')",
    "string",
    "sum",
    "title",
    "tojson",
    "unique",
];
const FILTERS_MORE: [&str; 8] =
    ["tojson(indent=4)", "trim", "upper", "urlencode", "center(9)", "wordcount", "zip(a)", "chain(b)"];
const METHODS: [&str; 24] = [
    "strip()",
    "split()",
    "split('a')",
    "replace('a', 'bb')",
    "upper()",
    "title()",
    "startswith('a')",
    "endswith('b')",
    "find('a')",
    "format(a)",
    "join(b)",
    "get('x', a)",
    "items()",
    "keys()",
    "values()",
    "lstrip('a')",
    "splitlines()",
    "count('a')",
    "removeprefix('a')",
    "isdigit()",
    "zfill(8)",
    "index('a')",
    "append(a)",
    "rstrip('\\n')",
];
const OPERATORS: [&str; 16] = [
    " + ", " - ", " * ", " / ", " // ", " % ", " ** ", " ~ ", " == ", " != ", " < ", " >= ", " in ", " not in ",
    " and ", " or ",
];
const TESTS: [&str; 10] =
    ["defined", "none", "string", "mapping", "iterable", "number", "odd", "divisibleby(2)", "sequence", "eq(a)"];
const NUMBERS: [&str; 12] = [
    "0",
    "1",
    "2",
    "-1",
    "7",
    "1.5",
    "100",
    "10000",
    "99999999",
    "9223372036854775807",
    "-9223372036854775808",
    "1e308",
];
const TEXTS: [&str; 8] =
    ["''", "'a'", "'aaaaaaaaaaaaaaaa'", "'%s %d'", "'%99999d'", "'é\\u0301'", "'{{ a }}'", "'\\x1b[2J'"];

struct Writer<'b> {
    bytes: Bytes<'b>,
    out: String,
    depth: usize,
}

impl Writer<'_> {
    fn put(&mut self, text: &str) {
        self.out.push_str(text);
    }

    /// Runs `inner` a level deeper.
    fn nested(&mut self, inner: impl FnOnce(&mut Self)) {
        self.depth += 1;
        inner(self);
        self.depth -= 1;
    }

    fn name(&mut self) {
        let name = *self.bytes.one_of(&NAMES);
        self.put(name);
    }

    fn list(&mut self) {
        for i in 0..self.bytes.byte() % 5 {
            if i > 0 {
                self.put(", ");
            }
            self.expression();
        }
    }

    fn expression(&mut self) {
        let rule =
            if self.depth >= DEPTH || self.bytes.is_empty() { self.bytes.byte() % 3 } else { self.bytes.byte() % 18 };
        self.nested(|w| match rule {
            0 => w.name(),
            1 => {
                let number = *w.bytes.one_of(&NUMBERS);
                w.put(number);
            }
            2 => {
                let text = *w.bytes.one_of(&TEXTS);
                w.put(text);
            }
            3 | 4 => {
                w.put("(");
                w.expression();
                let operator = *w.bytes.one_of(&OPERATORS);
                w.put(operator);
                w.expression();
                w.put(")");
            }
            5 | 6 => {
                w.expression();
                let which = usize::from(w.bytes.byte()) % (FILTERS.len() + FILTERS_MORE.len());
                let filter = FILTERS.iter().chain(&FILTERS_MORE).nth(which).copied().unwrap_or("list");
                let _ = write!(w.out, "|{filter}");
            }
            7 => {
                w.put("(");
                w.expression();
                let method = *w.bytes.one_of(&METHODS);
                let _ = write!(w.out, ").{method}");
            }
            8 | 9 => {
                w.put("[");
                w.list();
                w.put("]");
            }
            10 => {
                w.put("{");
                for i in 0..w.bytes.byte() % 4 {
                    if i > 0 {
                        w.put(", ");
                    }
                    let key = *w.bytes.one_of(&TEXTS);
                    w.put(key);
                    w.put(": ");
                    w.expression();
                }
                w.put("}");
            }
            11 => {
                w.put("(");
                w.expression();
                w.put(")[");
                w.expression();
                w.put("]");
            }
            12 => {
                w.put("(");
                w.expression();
                w.put(")[");
                w.expression();
                w.put(":");
                w.expression();
                w.put("]");
            }
            13 => {
                w.put("range(");
                w.expression();
                w.put(")");
            }
            14 => {
                w.put("(");
                w.expression();
                w.put(" if ");
                w.expression();
                let test = *w.bytes.one_of(&TESTS);
                let _ = write!(w.out, " is {test} else ");
                w.expression();
                w.put(")");
            }
            15 => {
                w.put("namespace(x=");
                w.expression();
                w.put(")");
            }
            16 => {
                w.put("f(");
                w.expression();
                w.put(")");
            }
            _ => {
                w.put("dict(x=");
                w.expression();
                w.put(")");
            }
        });
    }

    fn block(&mut self) {
        while !self.bytes.is_empty() {
            let rule = self.bytes.byte() % 16;
            if rule == 15 || self.depth >= DEPTH {
                return;
            }
            self.nested(|w| w.statement(rule));
        }
    }

    fn statement(&mut self, rule: u8) {
        match rule {
            0..3 => {
                self.put("{{ ");
                self.expression();
                self.put(" }}");
            }
            3..6 => {
                self.put("{% set ");
                let name = *self.bytes.one_of(&["a", "b", "c", "ns.x", "ns.y"]);
                self.put(name);
                self.put(" = ");
                self.expression();
                self.put(" %}");
            }
            6..9 => {
                self.put("{% for m in ");
                self.expression();
                if self.bytes.byte() % 8 == 0 {
                    self.put(" recursive");
                }
                self.put(" %}");
                self.block();
                match self.bytes.byte() % 8 {
                    0 => self.put("{% break %}"),
                    1 => self.put("{% continue %}"),
                    2 => self.put("{{ loop(m) if loop.depth is defined }}"),
                    3 => self.put("{{ loop.cycle(a, b) }}"),
                    _ => {}
                }
                self.put("{% endfor %}");
            }
            9 | 10 => {
                self.put("{% if ");
                self.expression();
                self.put(" %}");
                self.block();
                self.put("{% else %}");
                self.block();
                self.put("{% endif %}");
            }
            11 => {
                self.put("{% macro f(a, b=1) %}");
                self.block();
                self.put("{% endmacro %}");
            }
            12 => {
                self.put("{% set c %}");
                self.block();
                self.put("{% endset %}");
            }
            13 => {
                self.put("{% filter upper %}");
                self.block();
                self.put("{% endfilter %}");
            }
            _ => {
                self.put("{% call f(");
                self.expression();
                self.put(") %}");
                self.block();
                self.put("{% endcall %}");
            }
        }
    }
}

fuzz_target!(init: WORKER.set(run_if_asked()).expect("it is set once"), |input: &[u8]| {
    let start = "{% set ns = namespace(x=[], y={}) %}{% set a = 'a' %}{% set b = [1, 2] %}{% set c = {'x': 1} %}";
    let mut writer = Writer { bytes: Bytes::new(input), out: start.to_owned(), depth: 0 };
    while !writer.bytes.is_empty() {
        writer.block();
    }
    let begun = Instant::now();
    let Ok(template) = ChatTemplate::from_choice(&writer.out, WORKER.get()) else { return };
    let options =
        RenderOptions { bos_token: "<s>", eos_token: "</s>", add_generation_prompt: true, ..Default::default() };
    let messages = [Message::new("system", "a"), Message::new("user", "b c"), Message::new("assistant", "d\ne")];
    if let Err(error) = template.render(&messages, &options) {
        assert!(!error.to_string().is_empty());
    }
    // A second of computation for each of checking and rendering, three seconds until either is given up.
    assert!(begun.elapsed() < Duration::from_secs(8), "the template took {:?}", begun.elapsed());
});
