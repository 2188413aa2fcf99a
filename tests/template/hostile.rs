//! Templates that mean harm, by what they try.

/// What a template must come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// An error about the template.
    Refused,
    /// An error, or a prompt of a harmless size.
    Either,
}

/// A name for messages and a template.
pub(crate) type Row = (String, String, End);

/// A list of lists that holds itself twice on every level: small in memory, of 2⁹⁹ leaves to whoever walks it.
const SHARED: &str = "{% set n = namespace(x=[0]) %}{% for i in range(99) %}{% set n.x = [n.x, n.x] %}{% endfor %}";
/// Its twin, of the same value.
const TWIN: &str = "{% set m = namespace(x=[0]) %}{% for i in range(99) %}{% set m.x = [m.x, m.x] %}{% endfor %}";
/// The same as a map.
const SHARED_MAP: &str =
    "{% set n = namespace(x={}) %}{% for i in range(99) %}{% set n.x = {'a': n.x, 'b': n.x} %}{% endfor %}";
/// A list in a list in a list …
const DEEP: &str = "{% set n = namespace(x=[]) %}{% for i in range(90000) %}{% set n.x = [n.x] %}{% endfor %}";
const DEEP_TWIN: &str = "{% set m = namespace(x=[]) %}{% for i in range(90000) %}{% set m.x = [m.x] %}{% endfor %}";
/// A map as the key of a map as the key …
const DEEP_KEYS: &str = "{% set n = namespace(x={}) %}{% for i in range(90000) %}{% set n.x = {n.x: 1} %}{% endfor %}";
/// Two namespaces that hold each other.
const RING: &str = "{% set n = namespace() %}{% set m = namespace(x=n, y=1) %}{% set n.x = m %}{% set n.y = 1 %}";
/// A namespace that holds itself.
const LOOP: &str = "{% set n = namespace() %}{% set n.x = n %}";
/// A long text.
const LONG: &str = "{% set s = 'ab ' * 3000000 %}";

/// All of them.
pub(crate) fn rows() -> Vec<Row> {
    let mut rows = Vec::new();
    let mut add = |end: End, name: &str, source: String| rows.push((name.to_owned(), source, end));
    walks(&mut add);
    parses(&mut add);
    sizes(&mut add);
    recursions(&mut add);
    rows
}

/// Operations that walk values, on values that are endless to walk.
fn walks(add: &mut impl FnMut(End, &str, String)) {
    let operations = [
        ("printed", "{{ n.x }}"),
        ("joined to a text", "{{ ('' ~ n.x)|length }}"),
        ("as a string", "{{ n.x|string|length }}"),
        ("as JSON", "{{ n.x|tojson }}"),
        ("as JSON with indentation", "{{ {'a': n.x}|tojson(indent=16) }}"),
        ("for people", "{{ n.x|pprint }}"),
        ("for debugging", "{{ debug() }}"),
        ("joined", "{{ [n.x, n.x]|join }}"),
        ("formatted", "{{ '%s'|format(n.x) }}"),
        ("formatted as in Python", "{{ '{}'.format(n.x) }}"),
        ("in an error", "{{ n.x.no.such.field }}"),
        ("raised", "{{ raise_exception(n.x) }}"),
        ("escaped", "{{ n.x|e }}"),
        ("replaced", "{{ n.x|replace('0', '1') }}"),
        ("as a role", "{{ {n.x|string: 1} }}"),
    ];
    for (kind, setup, n) in [
        ("shared lists", SHARED, operations.len()),
        ("shared maps", SHARED_MAP, 5),
        ("deep list", DEEP, operations.len()),
        ("ring", RING, 5),
    ] {
        for &(name, operation) in &operations[..n] {
            // Namespaces print as the map they are, and a map does not print itself again.
            let end = if matches!(name, "in an error" | "for debugging") || kind == "ring" {
                End::Either
            } else {
                End::Refused
            };
            add(end, &format!("{kind} {name}"), format!("{setup}{operation}"));
        }
    }
    for (kind, setup) in [
        ("shared lists", format!("{SHARED}{TWIN}")),
        ("deep lists", format!("{DEEP}{DEEP_TWIN}")),
        ("ring", RING.to_owned()),
    ] {
        for (name, operation) in [
            ("compared", "{{ n.x == m.x }}"),
            ("ordered", "{{ n.x < m.x }}"),
            ("searched", "{{ n.x in [m.x] }}"),
            ("sorted", "{{ [n.x, m.x]|sort|length }}"),
            ("unique", "{{ [n.x, m.x]|unique|list|length }}"),
            ("largest", "{{ ([n.x, m.x]|max)|length }}"),
            ("grouped", "{{ [{'k': n.x}, {'k': m.x}]|groupby('k')|length }}"),
            ("counted", "{{ [n.x].count(m.x) }}"),
            ("as a key", "{{ {n.x: 1, m.x: 2}|length }}"),
            ("as a key sought", "{{ {m.x: 2}.get(n.x) }}"),
            ("sorted by key", "{{ {n.x: 1, m.x: 2}|dictsort|length }}"),
            ("changed", "{% for i in [n.x, m.x] %}{{ loop.changed(i) }}{% endfor %}"),
            ("selected", "{{ [n.x]|select('eq', m.x)|list|length }}"),
        ] {
            add(End::Either, &format!("{kind} {name}"), format!("{setup}{operation}"));
        }
    }
    add(End::Refused, "shared lists in 53 bytes", "{%set x=[0]%}".to_owned() + &"{%set x=[x,x]%}".repeat(40) + "{{x}}");
    add(End::Either, "a namespace that holds itself, printed", format!("{LOOP}{{{{ n }}}}"));
    add(End::Either, "a namespace that holds itself, compared", format!("{LOOP}{{{{ n == n.x }}}}"));
    add(End::Either, "a namespace that holds itself, as a key", format!("{LOOP}{{{{ {{n: 1}} }}}}"));
    add(End::Either, "a namespace that holds itself, as JSON", format!("{LOOP}{{{{ n|tojson }}}}"));
    add(End::Either, "a namespace that holds itself, dropped", format!("{LOOP}{{% set n.y = 'x' * 9000000 %}}"));
    add(End::Either, "a deep list, dropped", DEEP.to_owned());
    add(End::Either, "deep keys, dropped", DEEP_KEYS.to_owned());
    add(End::Either, "deep keys, printed", format!("{DEEP_KEYS}{{{{ n.x }}}}"));
    add(End::Either, "shared maps compared", format!("{SHARED_MAP}{{% set a = n.x %}}{SHARED_MAP}{{{{ a == n.x }}}}"));
}

/// Sources that nest, or go on and on.
fn parses(add: &mut impl FnMut(End, &str, String)) {
    for n in [300, 32_000] {
        let nested = |open: &str, inner: &str, close: &str| format!("{}{inner}{}", open.repeat(n), close.repeat(n));
        for (name, source) in [
            ("minus signs", format!("{{{{ {}1 }}}}", "-".repeat(n))),
            ("spaced minus signs", format!("{{{{ {}1 }}}}", "- ".repeat(n))),
            ("not", format!("{{{{ {}1 }}}}", "not ".repeat(n))),
            ("parentheses", format!("{{{{ {} }}}}", nested("(", "1", ")"))),
            ("lists", format!("{{{{ {} }}}}", nested("[", "1", "]"))),
            ("maps", format!("{{{{ {} }}}}", nested("{1: ", "1", " }"))),
            ("keys", format!("{{{{ {} }}}}", nested("{ ", "1", ":1 }"))),
            ("calls", format!("{{{{ {} }}}}", nested("range(", "1", ")"))),
            ("subscripts", format!("{{{{ {} }}}}", nested("messages[", "0", "]"))),
            ("fields", format!("{{{{ messages{} }}}}", ".a".repeat(n))),
            ("tilde", format!("{{{{ 1{} }}}}", " ~ 1".repeat(n))),
            ("plus", format!("{{{{ 1{} }}}}", " + 1".repeat(n))),
            ("powers", format!("{{{{ 2{} }}}}", " ** 2".repeat(n))),
            ("comparisons", format!("{{{{ 1{} }}}}", " < 2".repeat(n))),
            ("and", format!("{{{{ 1{} }}}}", " and 1".repeat(n))),
            ("filters", format!("{{{{ 'x'{} }}}}", "|trim".repeat(n))),
            ("tests", format!("{{{{ 1{} }}}}", " is defined".repeat(n))),
            ("conditions", format!("{{{{ {} }}}}", nested("1 if ", "1", " else 2"))),
            ("alternatives", format!("{{{{ {}3 }}}}", "1 if false else ".repeat(n))),
            ("if", nested("{% if true %}", "x", "{% endif %}")),
            ("elif", format!("{{% if false %}}{}{{% endif %}}", "{% elif false %}".repeat(n))),
            ("for", nested("{% for a in [1] %}", "x", "{% endfor %}")),
            ("set", nested("{% set a %}", "x", "{% endset %}")),
            ("with", nested("{% with a = 1 %}", "x", "{% endwith %}")),
            ("macros", nested("{% macro a() %}", "x", "{% endmacro %}")),
            (
                "call blocks",
                format!(
                    "{{% macro a() %}}{{{{ caller() }}}}{{% endmacro %}}{}",
                    nested("{% call a() %}", "x", "{% endcall %}")
                ),
            ),
            ("filter blocks", nested("{% filter trim %}", "x", "{% endfilter %}")),
            ("opening marks", format!("{{{{ 1 }}}}{}", "{%".repeat(n))),
            ("generation tags", nested("{% generation %}", "x", "{% endgeneration %}")),
        ] {
            add(End::Either, &format!("{n} × {name}"), source);
        }
    }
}

/// Operations that make much of little.
fn sizes(add: &mut impl FnMut(End, &str, String)) {
    for (name, expression) in [
        ("%d with a width", "'%999999999d'|format(1)"),
        ("%d with a width given", "'%*d'|format(999999999, 1)"),
        ("%f with a precision", "'%.999999999f'|format(1)"),
        ("%s with a width, often", "('%9999999s' * 1000)|format(*range(1000))"),
        ("format with a width", "'{:>999999999}'.format(1)"),
        ("format with a fill", "'{:*^99999999999999999999}'.format(1)"),
        ("format with a precision", "'{:.999999999f}'.format(1.5)"),
        ("format with a nested width", "'{:{}}'.format(1, 999999999)"),
        ("format, often", "('{0}' * 100000).format('x' * 100000)"),
        ("a text times a number", "'x' * 4000000000"),
        ("a text times a text's length", "('x' * 1000000) * 1000000"),
        ("a list times a number", "[0] * 4000000000"),
        ("a list times a number, twice", "([0] * 100000) * 100000"),
        ("a power of powers", "10 ** 10 ** 10"),
        ("a large range as a list", "range(1000000000)|list|length"),
        ("a large range joined", "range(1000000000)|join"),
        ("a large range sorted", "range(1000000000)|sort|length"),
        ("a large range added up", "range(1000000000)|sum"),
        ("a large range reversed", "range(1000000000)|reverse|list|length"),
        ("a large range as JSON", "range(1000000000)|tojson"),
        ("a large range in batches", "range(1000000000)|batch(1)|list|length"),
        ("a large range in slices", "range(1000000000)|slice(2)|list|length"),
        ("slices without number", "[1]|slice(4000000000)|list|length"),
        ("a batch filled up", "[1]|batch(4000000000, 'x')|list|length"),
        ("the last of a large range", "range(1000000000)|last"),
        ("what is in a large range", "'x' in range(1000000000)"),
        ("a large range unique", "range(1000000000)|unique|list|length"),
        ("a large range mapped", "range(1000000000)|map('string')|list|length"),
        ("centred", "'x'|center(1000000000)"),
        ("centred as in Python", "'x'.center(1000000000)"),
        ("padded", "'x'.ljust(1000000000) ~ 'x'.rjust(1000000000)"),
        ("filled with zeros", "'x'.zfill(1000000000)"),
        ("indented", "'x\\ny'|indent(1000000000)"),
        ("indented from the first line", "('x\\n' * 100000)|indent(100000, true)"),
        ("a date with a width", "strftime_now('%999999999Y')"),
        ("a date with widths", "strftime_now('%255Y' * 1000000)"),
        ("JSON with long separators", "(range(1000)|list)|tojson(separators=('x' * 100000, ':'))"),
        ("an error with a long text", "raise_exception('x' * 100000000)"),
        ("joined by a long text", "(range(100000)|list)|join('x' * 100000)"),
        ("expanded tabs", "('\\t' * 1000000).expandtabs(1000000)"),
        ("rounded", "1.5|round(1000000000)"),
    ] {
        add(End::Either, name, format!("{{{{ {expression} }}}}"));
    }
    for (name, expression) in [
        ("replace nothing by much", "s|replace('', s)"),
        ("replace nothing by much as in Python", "s.replace('', s)"),
        ("replace little by much", "s|replace('a', s)"),
        ("replace little by much as in Python", "s.replace('b', s)|length"),
        ("joined by itself", "s|list|join(s)"),
        ("escaped again and again", "('&' * 1000000)|e|e|e|e|e|e|e|e|e"),
        ("wrapped at every character", "s|wordwrap(1)|length"),
        ("split", "s.split('a')|length"),
        ("split at blanks, and again", "(s.split()|map('list')|list)|length"),
        ("as a list", "s|list|length"),
        ("as a list of lists", "s|map('list')|map('list')|list|length"),
        ("sorted", "s|list|sort|join|length"),
        ("reversed again and again", "s[::-1][::-1][::-1][::-1]|reverse|length"),
        ("sought in itself", "(s ~ 'x') in (s ~ s ~ s)"),
        ("translated", "s|title|upper|lower|capitalize|length"),
        ("URL-encoded", "s|urlencode|length"),
        ("as JSON", "(s ~ '\\\"' * 5000000)|tojson|tojson|tojson|length"),
        ("in columns", "s|list|batch(2)|list|length"),
        ("each one a map", "s|list|map('items')|list"),
        ("grouped", "s|list|groupby('x')|list|length"),
        ("in lines", "('x\\n' * 5000000).splitlines()|length"),
    ] {
        add(End::Either, &format!("a long text, {name}"), format!("{LONG}{{{{ {expression} }}}}"));
    }
    let doubled = "{% for i in range(99) %}{% set n.s = n.s ~ n.s %}{% endfor %}{{ n.s }}";
    add(End::Refused, "a text doubled", format!("{{% set n = namespace(s='x') %}}{doubled}"));
    let captured =
        "{% for i in range(99) %}{% set t %}{{ n.s }}{{ n.s }}{% endset %}{% set n.s = t %}{% endfor %}{{ n.s }}";
    add(End::Refused, "a block doubled", format!("{{% set n = namespace(s='x') %}}{captured}"));
    let added = "{% for i in range(99) %}{% set n.s = n.s + n.s %}{% endfor %}{{ n.s|length }}";
    add(End::Either, "a list doubled", format!("{{% set n = namespace(s=[1]) %}}{added}"));
    let rows = "{% for a in range(99999) %}{% for b in range(99999) %}{{ b }}{% endfor %}{% endfor %}";
    add(End::Refused, "loops", rows.to_owned());
    let replaced = "{% for i in range(40) %}{% set n.s = n.s.replace('x', 'xx') %}{% endfor %}{{ n.s|length }}";
    add(End::Refused, "replaced again and again", format!("{{% set n = namespace(s='x') %}}{replaced}"));
    let kept = "{% for i in range(9999) %}{% set n.s = [n.s, 'x' * 100000 ~ i] %}{% endfor %}";
    add(End::Refused, "texts kept", format!("{{% set n = namespace(s=1) %}}{kept}"));
}

/// Templates that call themselves.
fn recursions(add: &mut impl FnMut(End, &str, String)) {
    for (name, source) in [
        ("a macro that calls itself", "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}"),
        ("two macros", "{% macro f() %}{{ g() }}{% endmacro %}{% macro g() %}{{ f() }}{% endmacro %}{{ g() }}"),
        ("a macro that doubles", "{% macro f(x) %}{{ f(x ~ x) }}{{ f(x) }}{% endmacro %}{{ f('xxxxxxxxxx') }}"),
        ("a call block", "{% macro f() %}{% call f() %}{{ caller() }}{% endcall %}{% endmacro %}{{ f() }}"),
        (
            "a caller",
            "{% macro f() %}{{ caller() }}{% endmacro %}{% call f() %}{% call f() %}{{ f() }}{% endcall %}{% endcall %}",
        ),
        ("a recursive loop", "{% for x in [[1]] recursive %}{{ loop([x]) }}{% endfor %}"),
        (
            "a recursive loop of itself",
            "{% set n = namespace() %}{% set n.l = [n] %}{% for x in n.l recursive %}{{ loop(x.l) }}{% endfor %}",
        ),
        ("a block", "{% block a %}{{ self.a() }}{% endblock %}"),
        ("itself included", "{% include 'chat' %}"),
        ("itself included in a loop", "{% for i in range(9) %}{% include 'chat' %}{% endfor %}"),
        ("itself extended", "{% extends 'chat' %}"),
        ("itself imported", "{% import 'chat' as c %}{{ c.f() }}"),
        (
            "a macro kept in a namespace",
            "{% set n = namespace() %}{% macro f() %}{{ n.f() }}{% endmacro %}{% set n.f = f %}{{ f() }}",
        ),
        ("a macro in a filter", "{% macro f() %}{{ [1]|map(f)|list }}{{ f() }}{% endmacro %}{{ f() }}"),
    ] {
        let end = if name == "a caller" { End::Either } else { End::Refused };
        add(end, name, source.to_owned());
    }
}
