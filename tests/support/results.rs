//! Figures that commands write into `docs/results.md` themselves.

use std::path::Path;

const END: &str = "<!-- end of it -->";

/// Puts what a command measured behind the mark that names it.
///
/// Fails if there is no such place.
pub fn keep(command: &str, table: &str) -> Result<(), String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/results.md");
    let name = path.display();
    let text = std::fs::read_to_string(&path).map_err(|e| format!("{name}: {e}"))?;
    let text = put(&text, command, table);
    let text = text.ok_or(format!("{name}: the marks for the table are gone"))?;
    std::fs::write(&path, text).map_err(|e| format!("{name}: {e}"))
}

fn put(text: &str, command: &str, table: &str) -> Option<String> {
    let mark = format!("<!-- {command} -->");
    let (head, rest) = text.split_once(&mark)?;
    let (_, tail) = rest.split_once(END)?;
    Some(format!("{head}{mark}\n{table}{END}{tail}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_command_has_its_place() {
        let text =
            "a\n<!-- one -->\nold\n<!-- end of it -->\nb\n<!-- two -->\n<!-- end of it -->\nc";
        let text = put(text, "two", "second\n").and_then(|text| put(&text, "one", "first\n"));
        let want = "a\n<!-- one -->\nfirst\n<!-- end of it -->\nb\n<!-- two -->\nsecond\n<!-- end of it -->\nc";
        assert_eq!(text.as_deref(), Some(want));
        assert_eq!(put(want, "three", ""), None);
    }
}
