//! Texts for objects of the Kubernetes API, whose fields are bounded.

use kube::ResourceExt;

/// `namespace/name`
pub fn qualified_name(object: &impl ResourceExt) -> String {
    format!("{}/{}", object.namespace().unwrap_or_default(), object.name_any())
}

/// At most so many bytes of JSON, as the apiserver writes it (it escapes what HTML would mind); an ellipsis says that
/// something is missing.
pub fn cut(text: &str, json_bytes_max: usize) -> String {
    const ELLIPSIS: char = '…';
    let length = |c: char| match c {
        '"' | '\\' | '\n' | '\r' | '\t' => 2,
        '<' | '>' | '&' | '\u{2028}' | '\u{2029}' => 6,
        c if c.is_control() => 6,
        c => c.len_utf8(),
    };
    if text.chars().map(length).sum::<usize>() <= json_bytes_max {
        return text.to_owned();
    }
    let mut room = json_bytes_max.saturating_sub(ELLIPSIS.len_utf8());
    let kept = text.chars().take_while(|c| {
        let fits = length(*c) <= room;
        room = room.saturating_sub(length(*c));
        fits
    });
    kept.chain([ELLIPSIS]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cutting_counts_what_json_takes() {
        assert_eq!(cut("short", 5), "short");
        assert_eq!(cut("shorts", 5), "sh…");
        assert_eq!(cut("<b>bold</b>", 20), "<b>bold…");
        for text in ["\"\"\"\"\"\"\"\"", "üüüüüüüü", "\u{1}\u{2}\u{3}", "a<b>c&d"] {
            for max in 3..24 {
                assert!(serde_json::to_string(&cut(text, max)).is_ok_and(|json| json.len() <= max + 2), "{text:?} {max}");
            }
        }
    }
}
