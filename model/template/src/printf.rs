//! Go's `printf`, for the values a template has.

use serde_json::Value;

use crate::function::{display, type_name};
use crate::number;

/// The widest field and the longest precision, as in Go.
const WIDTH_MAX: usize = 1_000_000;

#[derive(Default, Clone, Copy)]
struct Flags {
    minus: bool,
    plus: bool,
    sharp: bool,
    space: bool,
    zero: bool,
    width: usize,
    precision: Option<usize>,
}

/// Formats; a verb that does not fit its argument shows up in the output, as
/// in Go, and is no error.
pub(crate) fn printf(format: &str, arguments: &[Value]) -> Result<String, String> {
    let mut out = String::new();
    let mut arguments = arguments.iter();
    let mut rest = format;
    while let Some(percent) = rest.find('%') {
        out.push_str(&rest[..percent]);
        let (flags, after) = flags(&rest[percent + 1..])?;
        let Some(verb) = after.chars().next() else {
            out.push_str("%!(NOVERB)");
            rest = "";
            break;
        };
        rest = &after[verb.len_utf8()..];
        if verb == '%' {
            out.push('%');
            continue;
        }
        match arguments.next() {
            Some(argument) => out.push_str(&pad(&one(verb, argument, flags), flags)),
            None => out.push_str(&format!("%!{verb}(MISSING)")),
        }
        if out.len() > crate::OUTPUT_MAX {
            return Err(format!("printf gives more than {} bytes", crate::OUTPUT_MAX));
        }
    }
    out.push_str(rest);
    let extra: Vec<String> = arguments.map(described).collect();
    if !extra.is_empty() {
        out.push_str(&format!("%!(EXTRA {})", extra.join(", ")));
    }
    Ok(out)
}

fn flags(text: &str) -> Result<(Flags, &str), String> {
    let mut flags = Flags::default();
    let rest = text.trim_start_matches(|c| {
        match c {
            '-' => flags.minus = true,
            '+' => flags.plus = true,
            '#' => flags.sharp = true,
            ' ' => flags.space = true,
            '0' => flags.zero = true,
            _ => return false,
        }
        true
    });
    let (width, rest) = digits(rest)?;
    flags.width = width;
    let Some(rest) = rest.strip_prefix('.') else {
        return Ok((flags, rest));
    };
    let (precision, rest) = digits(rest)?;
    flags.precision = Some(precision);
    Ok((flags, rest))
}

fn digits(text: &str) -> Result<(usize, &str), String> {
    let length = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    if length == 0 {
        return Ok((0, text));
    }
    match text[..length].parse() {
        Ok(number) if number <= WIDTH_MAX => Ok((number, &text[length..])),
        _ => Err(format!("printf: width or precision over {WIDTH_MAX}")),
    }
}

fn pad(text: &str, flags: Flags) -> String {
    let missing = flags.width.saturating_sub(text.chars().count());
    if flags.minus {
        return format!("{text}{}", " ".repeat(missing));
    }
    let is_number = text.starts_with(|c: char| c.is_ascii_digit() || matches!(c, '+' | '-'));
    if flags.zero && is_number {
        let (sign, digits) = text.split_at(usize::from(text.starts_with(['+', '-'])));
        return format!("{sign}{}{digits}", "0".repeat(missing));
    }
    format!("{}{text}", " ".repeat(missing))
}

fn one(verb: char, argument: &Value, flags: Flags) -> String {
    match (verb, argument) {
        ('v' | 's' | 'q' | 'x' | 'X' | 'd', Value::Array(items)) => {
            let items: Vec<String> = items.iter().map(|item| one(verb, item, flags)).collect();
            format!("[{}]", items.join(" "))
        }
        ('T', _) => type_name(argument).to_owned(),
        ('v', Value::String(text)) if flags.sharp => quote(text),
        ('v', Value::Number(number)) if !number.is_f64() => integer('d', argument, flags).unwrap_or_default(),
        ('v', _) => {
            let mut out = String::new();
            display(argument, &mut out);
            out
        }
        ('s', Value::String(text)) => text.chars().take(flags.precision.unwrap_or(usize::MAX)).collect(),
        ('q', Value::String(text)) => quote(text),
        ('x', Value::String(text)) => text.bytes().map(|byte| format!("{byte:02x}")).collect(),
        ('X', Value::String(text)) => text.bytes().map(|byte| format!("{byte:02X}")).collect(),
        ('t', Value::Bool(truth)) => truth.to_string(),
        ('s' | 'd', Value::Object(_)) => {
            let mut out = String::new();
            display(argument, &mut out);
            out
        }
        ('e' | 'E' | 'f' | 'F' | 'g' | 'G', Value::Number(number)) if number.is_f64() => {
            float(verb, number.as_f64().unwrap_or_default(), flags)
        }
        _ => integer(verb, argument, flags).unwrap_or_else(|| format!("%!{verb}({})", described(argument))),
    }
}

/// An integer by its verb; `None` if it is none, or the verb is not for one.
fn integer(verb: char, argument: &Value, flags: Flags) -> Option<String> {
    let value = argument.as_i64().map(i128::from).or_else(|| argument.as_u64().map(i128::from))?;
    let magnitude = value.unsigned_abs();
    let sharp = |prefix: &'static str| if flags.sharp { prefix } else { "" };
    let digits = match verb {
        'd' => magnitude.to_string(),
        'x' => format!("{}{magnitude:x}", sharp("0x")),
        'X' => format!("{}{magnitude:X}", sharp("0X")),
        'o' => format!("{}{magnitude:o}", sharp("0")),
        'b' => format!("{magnitude:b}"),
        'c' => return u32::try_from(value).ok().and_then(char::from_u32).map(String::from),
        'q' => return u32::try_from(value).ok().and_then(char::from_u32).map(|c| format!("{c:?}")),
        'U' => format!("U+{magnitude:04X}"),
        _ => return None,
    };
    let digits = format!("{digits:0>width$}", width = flags.precision.unwrap_or(0));
    Some(format!("{}{digits}", sign(value < 0, flags)))
}

fn sign(negative: bool, flags: Flags) -> &'static str {
    match (negative, flags.plus, flags.space) {
        (true, ..) => "-",
        (_, true, _) => "+",
        (_, _, true) => " ",
        _ => "",
    }
}

fn float(verb: char, value: f64, flags: Flags) -> String {
    let magnitude = value.abs();
    // Rust pads a precision with zeros it never computes; a thousand is plenty.
    let precision = flags.precision.map(|precision| precision.min(1_000));
    let digits = match verb {
        'f' | 'F' => format!("{magnitude:.*}", precision.unwrap_or(6)),
        'e' => number::exponent(&format!("{magnitude:.*e}", precision.unwrap_or(6))),
        'E' => number::exponent(&format!("{magnitude:.*e}", precision.unwrap_or(6))).to_uppercase(),
        _ => general(magnitude, precision),
    };
    format!("{}{digits}", sign(value.is_sign_negative(), flags))
}

/// `%g`: the shortest text, or that many significant digits.
fn general(magnitude: f64, precision: Option<usize>) -> String {
    let shortest = || serde_json::Number::from_f64(magnitude).map_or_else(String::new, |n| number::print(&n));
    let Some(precision) = precision else {
        return shortest();
    };
    let rounded = format!("{magnitude:.*e}", precision.max(1) - 1);
    rounded.parse().map_or_else(
        |_| shortest(),
        |value: f64| {
            let exponent = value.log10().floor();
            let large = value != 0.0 && (exponent < -4.0 || exponent >= precision.max(1) as f64);
            if large { number::exponent(&format!("{value:e}")) } else { format!("{value}") }
        },
    )
}

/// Go's double-quoted form.
fn quote(text: &str) -> String {
    let mut out = String::from('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{7}' => out.push_str("\\a"),
            '\u{8}' => out.push_str("\\b"),
            '\u{b}' => out.push_str("\\v"),
            '\u{c}' => out.push_str("\\f"),
            _ if u32::from(c) < 0x80 && c.is_control() => out.push_str(&format!("\\x{:02x}", u32::from(c))),
            _ if c.is_control() => out.push_str(&format!("\\u{:04x}", u32::from(c))),
            _ => out.push(c),
        }
    }
    out.push('"');
    out
}

/// `int=3`, as Go shows an argument that a verb did not take.
fn described(argument: &Value) -> String {
    if argument.is_null() {
        return "<nil>".to_owned();
    }
    let mut out = format!("{}=", type_name(argument));
    display(argument, &mut out);
    out
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn verbs_print_as_in_go() {
        let check = |format: &str, arguments: Value, expect: &str| {
            let arguments = arguments.as_array().cloned().unwrap_or_default();
            assert_eq!(printf(format, &arguments).as_deref(), Ok(expect), "{format}");
        };
        check("%s-%d", json!(["a", 3]), "a-3");
        check("%5s|%-10s|", json!(["ab", "cd"]), "   ab|cd        |");
        check("%q", json!(["a\"b\n\u{1}é"]), r#""a\"b\n\x01é""#);
        check("%v %v %v %v", json!([1, 1.5, true, null]), "1 1.5 true <nil>");
        check("%v %v", json!([[1, "a"], {"b": 2, "a": 1}]), "[1 a] map[a:1 b:2]");
        check("%05d|%+d|% d|%-4d|", json!([-42, 7, 7, 7]), "-0042|+7| 7|7   |");
        check("%x %X %o %b %#x %c %U", json!([255, 255, 8, 5, 255, 65, 65]), "ff FF 10 101 0xff A U+0041");
        check("%x", json!(["hi"]), "6869");
        check("%.2s", json!(["héllo"]), "hé");
        check("%.2f %e %g %6.1f", json!([3.146, 1500.0, 1e21, 2.25]), "3.15 1.500000e+03 1e+21    2.2");
        check("%.3g %.3g", json!([1234.5, 0.5]), "1.23e+03 0.5");
        check("%t", json!([true]), "true");
        check("100%%", json!([]), "100%");
        check("%d", json!(["hi"]), "%!d(string=hi)");
        check("%s", json!([3]), "%!s(int=3)");
        check("%d", json!([]), "%!d(MISSING)");
        check("%", json!([]), "%!(NOVERB)");
        check("a", json!([1, "b"]), "a%!(EXTRA int=1, string=b)");
        check("%z", json!([1]), "%!z(int=1)");
        check("%T", json!(["a"]), "string");
        check("%s", json!([["a", "b"]]), "[a b]");
        check("%3c|", json!([0x263a]), "  ☺|");
    }

    #[test]
    fn a_width_is_bounded() {
        assert!(printf("%1000001d", &[json!(1)]).is_err());
        assert!(printf("%99999999999999999999d", &[json!(1)]).is_err());
        assert_eq!(printf("%1000000d", &[json!(1)]).map(|text| text.len()), Ok(1_000_000));
    }
}
