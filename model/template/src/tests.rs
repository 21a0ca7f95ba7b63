//! What templates mean, by example, and what holds for all of them.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

fn data() -> Value {
    json!({
        "ID": "abc123", "Name": "web", "Self": true, "Replicas": 3, "Ratio": 0.5, "Empty": "", "Nothing": null,
        "Labels": {"com.example.tier": "front", "zone": "b"},
        "Spec": {"Name": "inner", "Labels": {"a": "1"}, "Args": ["x", "y", "z"], "Counts": {"b": 2, "a": 1}},
        "Tasks": [{"Slot": 1, "Node": "n1"}, {"Slot": 2, "Node": "n2"}],
    })
}

fn outcome(template: &str) -> String {
    match Template::parse(template).and_then(|template| template.render(&data())) {
        Ok(text) => text,
        Err(error) => format!("ERROR {error}"),
    }
}

#[track_caller]
fn check(template: &str, expect: &str) {
    assert_eq!(outcome(template), expect, "{template}");
}

#[test]
fn text_fields_and_literals() {
    check("", "");
    check("plain }} text", "plain }} text");
    check("{{.ID}} {{ .Name }}", "abc123 web");
    check("{{.Spec.Name}}", "inner");
    check("{{$.Spec.Name}}{{$.ID}}", "innerabc123");
    check("{{(index .Tasks 1).Node}}", "n2");
    check("{{.Self}} {{.Replicas}} {{.Ratio}} {{.Nothing}}", "true 3 0.5 <nil>");
    check("{{.Spec.Args}} {{.Spec.Counts}}", "[x y z] map[a:1 b:2]");
    check(
        r#"{{"a\tb\"\u00e9\x41\101"}} {{`raw\n`}} {{'A'}} {{true}} {{0x10}} {{-3}} {{1.50}}"#,
        "a\tb\"éAA raw\\n 65 true 16 -3 1.5",
    );
    check("{{.Labels.zone}}|{{.Labels.gone}}", "b|<no value>");
    check("{{ .ID\n| upper }}", "ABC123");
}

#[test]
fn trim_markers_and_comments() {
    check("a  {{- .ID -}}  b", "aabc123b");
    check("a {{-3}} b", "a -3 b");
    check("a \n {{- /* gone */ -}} \n b", "ab");
    check("a {{/* gone */}} b", "a  b");
    check("{{.ID -}}\n\n{{- .Name}}", "abc123web");
    check("a{{/* b }}", "ERROR template: :1:2: unclosed comment");
    check("a{{/* b */ }}", "ERROR template: :1:2: comment ends before closing delimiter");
}

#[test]
fn conditions() {
    check("{{if .Self}}*{{else}} {{end}}", "*");
    check("{{if .Empty}}a{{else if .Nothing}}b{{else if .ID}}c{{else}}d{{end}}", "c");
    check("{{if and .Self (gt .Replicas 2)}}yes{{end}}", "yes");
    check("{{if not .Self}}yes{{end}}", "");
    check("{{with .Spec}}{{.Name}} {{$.Name}}{{end}}", "inner web");
    check("{{with .Empty}}a{{else}}{{.Name}}{{end}}", "web");
    check("{{with .Empty}}a{{else with .Spec}}{{.Name}}{{end}}", "inner");
    check("{{with $x := .Spec}}{{$x.Name}}{{end}}", "inner");
    check("{{and .Self .ID}} {{or .Empty .Name}} {{or .Self .Gone}} {{and .Empty .Gone}}", "abc123 web true ");
    check("{{if $x := .ID}}{{$x}}{{end}}{{$x}}", "ERROR template: :1:32: undefined variable \"$x\"");
}

#[test]
fn ranges() {
    check("{{range .Tasks}}{{.Slot}}@{{.Node}} {{end}}", "1@n1 2@n2 ");
    check("{{range $i, $t := .Tasks}}{{$i}}:{{$t.Node}} {{end}}", "0:n1 1:n2 ");
    check("{{range $t := .Tasks}}{{$t.Node}}{{.Slot}} {{end}}", "n11 n22 ");
    check("{{range $k, $v := .Spec.Counts}}{{$k}}={{$v}};{{end}}", "a=1;b=2;");
    check("{{range .Nothing}}x{{else}}none{{end}}", "none");
    check("{{range split .Empty \",\"}}[{{.}}]{{end}}", "[]");
    check("{{range 3}}{{.}}{{end}}", "012");
    check("{{range .Spec.Args}}{{if eq . \"y\"}}{{continue}}{{end}}{{.}}{{end}}", "xz");
    check("{{range .Spec.Args}}{{if eq . \"y\"}}{{break}}{{end}}{{.}}{{end}}", "x");
    check("{{$n := 0}}{{range .Spec.Args}}{{$n = .}}{{end}}{{$n}}", "z");
    check("{{range split \"a-b\" \"-\"}}<{{.}}>{{end}}", "<a><b>");
    check("{{range .ID}}{{end}}", "ERROR template: :1:9: executing \"\" at <.ID>: range can't iterate over string");
    check("{{break}}", "ERROR template: :1:1: {{break}} outside {{range}}");
}

#[test]
fn functions() {
    check("{{len .Spec.Args}} {{len .ID}} {{len .Labels}}", "3 6 2");
    check("{{index .Labels \"com.example.tier\"}}|{{index .Labels \"no\"}}|{{index .Spec.Counts \"no\"}}", "front||<no value>");
    check("{{index .Spec.Args 1}} {{slice .ID 1 3}} {{slice .Spec.Args 1}}", "y bc [y z]");
    check("{{.Label \"zone\"}}|{{.Label \"none\"}}|{{\"zone\" | .Label}}", "b||b");
    check(
        "{{eq .Replicas 1 2 3}} {{ne .ID \"x\"}} {{lt 1 2}} {{le 2 2}} {{gt \"b\" \"a\"}} {{ge 1.5 2}}",
        "true true true true true false",
    );
    check("{{print 1 2 \"a\" 3 nil}}|{{println \"a\" 1}}", "1 2a3 <nil>|a 1\n");
    check("{{printf \"%-6s|%03d\" .Name .Replicas}}", "web   |003");
    check("{{.Name | printf \"%s-%s\" \"a\" | upper}}", "A-WEB");
    check(
        "{{html \"<a href='x'>\"}} {{js \"'<a>'\\n\"}} {{urlquery \"a b&c\"}}",
        "&lt;a href=&#39;x&#39;&gt; \\'\\u003Ca\\u003E\\'\\u000A a+b%26c",
    );
    check("{{json .Spec.Args}} {{json .Nothing}} {{json .Name}}", "[\"x\",\"y\",\"z\"] null \"web\"");
    check("{{join .Spec.Args \", \"}} {{split \"a,b\" \",\"}}", "x, y, z [a b]");
    check("{{lower \"AbC\"}} {{upper .Name}} {{title \"hello big-world\"}}", "abc WEB Hello Big-World");
    check("[{{pad .Name 1 2}}] [{{pad \"\" 1 2}}] {{truncate .ID 3}} {{truncate .ID 99}}", "[ web  ] [] abc abc123");
    check("{{(printf \"%s\" .Name) | len}}", "3");
}

#[test]
fn faults_name_themselves_as_in_go() {
    check("{{.Gone}}", "ERROR template: :1:3: executing \"\" at <.Gone>: map has no entry for key \"Gone\"");
    check("{{.ID.Gone}}", "ERROR template: :1:3: executing \"\" at <.ID.Gone>: can't evaluate field Gone in type string");
    check(
        "{{.Nothing.Gone}}",
        "ERROR template: :1:3: executing \"\" at <.Nothing.Gone>: nil pointer evaluating interface {}.Gone",
    );
    check("{{.ID \"x\"}}", "ERROR template: :1:3: executing \"\" at <.ID>: ID is not a method but has arguments");
    check("a\nb {{nope .ID}}", "ERROR template: :2:5: function \"nope\" not defined");
    check("{{$x}}", "ERROR template: :1:3: undefined variable \"$x\"");
    check("{{if .ID}}", "ERROR template: :1:1: unclosed {{if}}: unexpected EOF");
    check("{{end}}", "ERROR template: :1:1: unexpected {{end}}");
    check("{{else}}", "ERROR template: :1:1: unexpected {{else}}");
    check("{{if}}{{end}}", "ERROR template: :1:5: missing value for if");
    check("{{}}", "ERROR template: :1:3: missing value for command");
    check("{{.ID", "ERROR template: :1:1: unclosed action");
    check("{{(.ID}}", "ERROR template: :1:7: unclosed left paren");
    check("{{.ID)}}", "ERROR template: :1:6: unexpected right paren");
    check("{{\"abc}}", "ERROR template: :1:3: unterminated quoted string");
    check("{{print(1)}}", "ERROR template: :1:8: unexpected \"(\" in operand");
    check("{{1 | 2}}", "ERROR template: :1:7: non executable command in pipeline stage 2");
    check("{{1 2}}", "ERROR template: :1:3: executing \"\" at <1>: can't give argument to non-function 1");
    check("{{nil}}", "ERROR template: :1:3: executing \"\" at <nil>: nil is not a command");
    check("{{3x}}", "ERROR template: :1:3: bad number syntax: \"3x\"");
    check("{{define \"x\"}}{{end}}", "ERROR template: :1:1: {{define}} is not supported");
    check("{{len 3}}", "ERROR template: :1:3: executing \"\" at <len>: error calling len: len of type int");
    check(
        "{{index .Spec.Args 9}}",
        "ERROR template: :1:3: executing \"\" at <index>: error calling index: index out of range: 9",
    );
    check(
        "{{len}}",
        "ERROR template: :1:3: executing \"\" at <len>: error calling len: wrong number of args for len: want 1 got 0",
    );
    check(
        "{{upper 1}}",
        "ERROR template: :1:3: executing \"\" at <upper>: error calling upper: wrong type for value; expected string; got int",
    );
    check("{{eq 1 \"a\"}}", "ERROR template: :1:3: executing \"\" at <eq>: error calling eq: incompatible types for comparison");
    check("{{.ID#}}", "ERROR template: :1:6: bad character U+0023 '#'");
}

#[test]
fn a_missing_map_key_is_an_error_where_the_caller_says_so() {
    let settings = Settings { missing: Missing::Error, ..Settings::default() };
    let render = |text: &str| {
        let template = Template::parse(text)?;
        template.render_with(&data(), &mut NoFunctions, settings)
    };
    assert_eq!(render("{{.Labels.zone}}").as_deref(), Ok("b"));
    assert!(render("{{.Labels.gone}}").is_err_and(|error| error.text.contains("no entry for key \"gone\"")));
}

const SHAPE: Shape = &[
    ("Gone", Known::Pointer(&[("Name", Known::Text)])),
    ("Name", Known::Text),
    ("Title", Known::Same("Name")),
    ("Since", Known::Nil),
    ("Zero", Known::Struct(&[("Count", Known::Number), ("Inner", Known::Struct(&[("Flag", Known::Flag)]))])),
    ("Spec", Known::Struct(&[("Mode", Known::Pointer(&[])), ("Labels", Known::Map), ("List", Known::List)])),
    ("Tasks", Known::Items(&[("Err", Known::Text), ("Port", Known::Nil)])),
];

#[test]
fn known_fields_that_are_absent_are_nil_or_zero() {
    let mut data = data();
    data["Set"] = json!({});
    let check = |text: &str, expect: &str| {
        let rendered = Template::parse(text).and_then(|template| template.render_shaped(&data, SHAPE));
        assert_eq!(rendered.unwrap_or_else(|error| format!("ERROR {}", error.text)), expect, "{text}");
    };
    check("{{if .Gone}}a{{else}}b{{end}}{{with .Gone}}{{.Name}}{{end}}{{.Gone}} {{.Since}}", "b<nil> <nil>");
    check("{{.Title}} {{.Zero.Count}} {{.Zero.Inner.Flag}}", "web 0 false");
    check("{{with .Spec}}{{if .Mode}}a{{else}}b{{end}}{{len .List}}{{.Name}}{{end}}", "b0inner");
    check("{{range .Tasks}}{{.Slot}}{{.Err}}{{if .Port}}x{{end}}{{end}}", "12");
    check("{{range $t := .Tasks}}{{$t.Err}}{{$t.Node}}{{end}}{{$.Since}}", "n1n2<nil>");
    // JSON is what it was.
    check("{{json .Spec.Labels}}{{json .Gone}}", "{\"a\":\"1\"}null");
    // An object without fields is there; an empty map is empty.
    check("{{if .Set}}a{{end}}{{if not .Set}}b{{end}}{{if and .Set .Name}}c{{end}}{{with .Set}}d{{end}}", "acd");
    // What nobody knows stays an error, also below what is nil.
    check("{{.Nope}}", "ERROR executing \"\" at <.Nope>: map has no entry for key \"Nope\"");
    check("{{.Spec.Nope}}", "ERROR executing \"\" at <.Spec.Nope>: map has no entry for key \"Nope\"");
    check("{{.Gone.Name}}", "ERROR executing \"\" at <.Gone.Name>: nil pointer evaluating interface {}.Name");
    check("{{with .Spec}}{{.Gone}}{{end}}", "ERROR executing \"\" at <.Gone>: map has no entry for key \"Gone\"");
}

struct Payload;

impl Functions for Payload {
    fn call(&mut self, name: &str, arguments: &[Value]) -> Option<Result<Value, String>> {
        match (name, arguments) {
            ("secret", [Value::String(target)]) if target == "db" => Some(Ok(Value::from("s3cret"))),
            ("secret", [Value::String(target)]) => Some(Err(format!("secret target {target} not found"))),
            _ => None,
        }
    }
}

#[test]
fn a_caller_adds_functions() {
    let render = |text: &str| {
        let template = Template::parse_with(text, &["secret"])?;
        template.render_with(&data(), &mut Payload, Settings::default())
    };
    assert_eq!(render("password={{secret \"db\"}}").as_deref(), Ok("password=s3cret"));
    assert_eq!(
        render("{{secret \"x\"}}").map_err(|error| error.text),
        Err("executing \"\" at <secret>: error calling secret: secret target x not found".to_owned())
    );
    assert!(Template::parse("{{secret \"db\"}}").is_err());
}

#[test]
fn formats_and_headers() {
    let header = |format: &str| match Format::parse(format) {
        Ok(Format::Columns(template)) => template.header(&[("ID", "ID"), ("Name", "NAME"), ("Self", "")]),
        other => panic!("{format}: {other:?}"),
    };
    assert_eq!(header(r"table {{.ID}}\t{{.Name}}").as_deref(), Ok("ID\tNAME"));
    assert_eq!(header("table {{lower .Name}} {{truncate .ID 1}}{{if .Self}}*{{else}} {{end}}").as_deref(), Ok("NAME ID "));
    assert_eq!(header("table {{.Label \"com.example.my-tier\"}} {{.Gone}}").as_deref(), Ok("my tier <no value>"));
    assert!(matches!(Format::parse("table"), Ok(Format::Table)));
    assert!(matches!(Format::parse("json"), Ok(Format::Json)));
    assert!(matches!(Format::parse("{{.ID}}"), Ok(Format::Template(_))));
    assert!(Format::parse("table {{.ID").is_err());
}

#[test]
fn fields_are_listed_from_the_data_inwards() {
    let list = |text: &str| {
        let template = Template::parse(text).expect("the template parses");
        template.fields().iter().map(|field| field.path.join(".")).collect::<Vec<_>>().join(" ")
    };
    assert_eq!(list("{{.ID}} {{.Spec.Name}}"), "ID Spec.Name");
    assert_eq!(list("{{with .Spec}}{{.Name}}{{$.ID}}{{else}}{{.Name}}{{end}}"), "Spec Spec.Name ID Name");
    assert_eq!(list("{{range .Tasks}}{{.Slot}}{{end}}"), "Tasks Tasks.*.Slot");
    assert_eq!(list("{{range $i, $t := .Tasks}}{{$t.Node}}{{end}}"), "Tasks Tasks.*.Node");
    assert_eq!(list("{{range $t := .Tasks}}{{$t.Node}}{{end}}"), "Tasks Tasks.*.Node");
    assert_eq!(list("{{$s := .Spec}}{{$s.Name}}{{upper (printf .A .B)}}"), "Spec Spec.Name A B");
    assert_eq!(list("{{(index .Tasks 0).Node}}"), "Tasks");
    let uses = Template::parse("a\n{{.Label \"k\"}}").expect("the template parses").fields();
    assert_eq!((uses[0].line, uses[0].column, uses[0].has_arguments), (2, 3, true));
}

#[test]
fn everything_has_a_limit() {
    let fails = |template: &str, with: &str| {
        let text = outcome(template);
        assert!(
            text.starts_with("ERROR") && text.contains(with),
            "{}: {}",
            &template[..template.len().min(60)],
            &text[..text.len().min(200)]
        );
    };
    fails(&" ".repeat(INPUT_MAX + 1), "longer than");
    fails(&"{{if .ID}}".repeat(DEPTH_MAX + 1), "nested deeper");
    fails(&format!("{{{{{}1{}}}}}", "(".repeat(100_000), ")".repeat(100_000)), "nested deeper");
    fails("{{range 9999999999}}{{end}}", "more than");
    fails("{{range 9999999}}{{printf \"%9999d\" 1}}{{end}}", "output is longer");
    fails("{{$x := \"aaaaaaaa\"}}{{range 99}}{{$x = print $x $x}}{{end}}", "longer than");
    fails("{{$x := printf \"%1000000d\" 1}}{{range 999999}}{{$y := $x}}{{end}}", "more than");
    fails("{{pad \"a\" 99999999999 1}}", "pad");
    fails("{{pad \"a\" 1 -1}}", "pad");
}

proptest! {
    #[test]
    fn parsing_and_rendering_never_panic(text in r#"(\{\{-? ?|-?\}\}|[.$a-zA-Z0-9"'`|:=,() \n\\%é-]|if |range |else|end|with |/\*|\*/|printf |index |\.Spec|\.Tasks|slice ){0,40}"#) {
        if let Ok(template) = Template::parse(&text) {
            let _ = template.render(&data());
            let _ = template.header(&[("Spec", "SPEC")]);
            template.fields();
        }
    }

    #[test]
    fn any_text_parses_or_is_refused(text in any::<String>()) {
        let _ = Template::parse(&text);
        let _ = Template::parse(&format!("{{{{{text}}}}}"));
    }

    #[test]
    fn a_quoted_string_comes_out_as_it_went_in(text in any::<String>()) {
        let quoted: String = text.chars().map(|c| format!("\\U{:08x}", u32::from(c))).collect();
        let template = Template::parse(&format!("{{{{\"{quoted}\"}}}}")).expect("escapes parse");
        prop_assert_eq!(template.render(&Value::Null), Ok(text));
    }

    #[test]
    fn text_without_actions_is_itself(text in "[^{]*") {
        let template = Template::parse(&text).expect("text parses");
        prop_assert_eq!(template.render(&Value::Null), Ok(text));
    }

    #[test]
    fn printf_never_panics(format in r"(%[-+# 0]{0,2}[0-9]{0,3}(\.[0-9]{0,2})?[vsdqxXtfegcUoTz%]|é| ){0,6}", number in any::<f64>(), integer in any::<i64>(), text in any::<String>()) {
        let _ = printf::printf(&format, &[json!(number), json!(integer), json!(text), json!([null, true]), json!({"a": text})]);
    }
}
