//! The `meta` tags of a discovery page.
//!
//! What it is for: templates and addresses of keys out of the HTML that meta
//! discovery gets. May assume nothing of the page. Must not know where it came from.

use html5gum::{DefaultEmitter, HtmlString, Token, Tokenizer};

use super::Wanted;

/// Most tags that are taken of one page.
const TAGS_MAX: usize = 64;

/// What the tags of a page say of one image.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Tags {
    /// Templates of `ac-discovery`, in the page's order.
    pub(super) templates: Vec<String>,
    /// Addresses of `ac-discovery-pubkeys`, in the page's order.
    pub(super) keys: Vec<String>,
}

/// Reads the tags that are for `wanted`: PREFIX, a space, and the rest.
///
/// The prefix matches whole parts of the name: `example.com` is not for
/// `example.community`, which the specification leaves open.
pub(super) fn tags(page: &[u8], wanted: &Wanted) -> Tags {
    // Without switching states, what a script prints would be tags.
    let mut emitter = DefaultEmitter::default();
    emitter.naively_switch_states(true);
    let mut found = Tags::default();
    for token in Tokenizer::new_with_emitter(page, emitter) {
        let Ok(token) = token;
        let tag = match token {
            // What visitors may write comes in the body; they are not asked.
            Token::StartTag(tag) if **tag.name == *b"body" => break,
            Token::EndTag(tag) if **tag.name == *b"head" => break,
            Token::StartTag(tag) if **tag.name == *b"meta" => tag,
            _ => continue,
        };
        let attribute = |name: &[u8]| {
            let value: &HtmlString = tag.attributes.get(name)?;
            std::str::from_utf8(value).ok()
        };
        let list = match attribute(b"name") {
            Some("ac-discovery") => &mut found.templates,
            Some("ac-discovery-pubkeys") => &mut found.keys,
            _ => continue,
        };
        let content = attribute(b"content").and_then(|text| text.trim().split_once(' '));
        if let Some((prefix, rest)) = content
            && is_above(prefix, wanted.name())
            && !rest.trim().is_empty()
            && list.len() < TAGS_MAX
        {
            list.push(rest.trim().to_owned());
        }
    }
    found
}

fn is_above(prefix: &str, name: &str) -> bool {
    let rest = name.strip_prefix(prefix.trim_end_matches('/'));
    !prefix.is_empty() && rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn app() -> Wanted {
        Wanted::new("appc:example.com/app".parse().unwrap())
    }

    fn read(page: &str) -> Tags {
        tags(page.as_bytes(), &app())
    }

    #[test]
    fn both_kinds_of_tags_are_read_in_their_order() {
        let found = read(
            "<!DOCTYPE html><HTML><head><title>x</title>
             <META CONTENT='example.com https://a/{name}.{ext}' NAME=ac-discovery>
             <meta name=\"ac-discovery\" content=\"example.com/app  hdfs://b/{name}&amp;.{ext} \"/>
             <meta name=ac-discovery-pubkeys content='example.com https://k'>
             <meta name=other content='example.com https://o'>",
        );
        assert_eq!(
            found.templates,
            ["https://a/{name}.{ext}", "hdfs://b/{name}&.{ext}"]
        );
        assert_eq!(found.keys, ["https://k"]);
    }

    #[test]
    fn a_prefix_matches_whole_parts_only() {
        for (prefix, matches) in [
            ("example.com", true),
            ("example.com/", true),
            ("example.com/app", true),
            ("example.com/ap", false),
            ("example.co", false),
            ("example.com/app/x", false),
            ("other.org", false),
        ] {
            let page = format!("<meta name=ac-discovery content='{prefix} https://a'>");
            assert_eq!(!read(&page).templates.is_empty(), matches, "{prefix}");
        }
    }

    #[test]
    fn what_is_no_tag_of_the_head_is_not_read() {
        let tag = "<meta name=ac-discovery content='example.com https://a'>";
        for page in [
            format!("<!-- {tag} -->"),
            format!("<script>'{tag}'</script>"),
            format!("<title>{tag}</title>"),
            format!("<head></head>{tag}"),
            format!("<body>{tag}"),
            "<meta name=ac-discovery content='example.com'>".to_owned(),
            "<meta name=ac-discovery>".to_owned(),
            "<meta name=ac-discovery content=' https://a'>".to_owned(),
            "<meta name=ac-discovery content='example.com https://a'".to_owned(),
            "\0\u{fffd}<<<<".to_owned(),
        ] {
            assert_eq!(read(&page), Tags::default(), "{page}");
        }
        assert_eq!(tags(b"\xff\xfe<meta \xff=\xff", &app()), Tags::default());
    }

    #[test]
    fn a_page_of_tags_is_cut() {
        let page = "<meta name=ac-discovery content='example.com https://a'>".repeat(1000);
        assert_eq!(read(&page).templates.len(), TAGS_MAX);
    }
}
