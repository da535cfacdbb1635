//! What a 401 demands: `WWW-Authenticate` (RFC 9110, sections 11.2 and 11.6.1).
//!
//! ```text
//! Bearer realm="https://auth.example.com/token",service="registry",scope="repository:a/b:pull"
//! ```

/// One challenge: its scheme in lower case, and its parameters, names in lower case.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Challenge {
    pub(super) scheme: String,
    params: Vec<(String, String)>,
}

impl Challenge {
    /// A parameter's value; the first, where there are several.
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        let found = self.params.iter().find(|(of, _)| of == name);
        found.map(|(_, value)| value.as_str())
    }

    /// All challenges of one header, as far as they can be understood.
    pub(super) fn parse(header: &str) -> Vec<Self> {
        let mut all: Vec<Self> = Vec::new();
        let mut rest = header.trim_start_matches([' ', '\t', ',']);
        while !rest.is_empty() {
            let (word, after) = token(rest);
            if word.is_empty() {
                return all;
            }
            let behind = after.trim_start_matches([' ', '\t']);
            match (behind.strip_prefix('='), all.last_mut()) {
                // A parameter of the challenge that was begun. `token68` ends in `=` too,
                // and nobody uses it here: what cannot be a value ends the parsing.
                (Some(value), Some(last)) => {
                    let Some((value, after)) = value_of(value.trim_start_matches([' ', '\t']))
                    else {
                        return all;
                    };
                    last.params.push((word.to_ascii_lowercase(), value));
                    rest = after;
                }
                (Some(_), None) => return all,
                (None, _) => {
                    all.push(Self {
                        scheme: word.to_ascii_lowercase(),
                        params: Vec::new(),
                    });
                    rest = behind;
                }
            }
            rest = rest.trim_start_matches([' ', '\t', ',']);
        }
        all
    }
}

/// The token that a text begins with, and what is behind it.
fn token(text: &str) -> (&str, &str) {
    let is = |c: char| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c);
    text.split_at(text.find(|c| !is(c)).unwrap_or(text.len()))
}

/// A token or a quoted text, and what is behind it.
fn value_of(text: &str) -> Option<(String, &str)> {
    let Some(quoted) = text.strip_prefix('"') else {
        // More than a token may have: realms without quotes are seen.
        let end = text.find([',', ' ', '\t', '"']).unwrap_or(text.len());
        return (end > 0).then(|| (text[..end].to_owned(), &text[end..]));
    };
    let mut value = String::new();
    let mut chars = quoted.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return Some((value, &quoted[at + 1..])),
            '\\' => value.push(chars.next()?.1),
            c => value.push(c),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn schemes(header: &str) -> Vec<String> {
        let all = Challenge::parse(header).into_iter();
        all.map(|challenge| challenge.scheme).collect()
    }

    #[test]
    fn a_bearer_challenge_has_its_parameters() {
        let header = r#"Bearer realm="https://auth.example.com/token?a=b,c",service="reg, \"one\"",scope="repository:a/b:pull,push" , Error=invalid_token"#;
        let all = Challenge::parse(header);
        assert_eq!(all.len(), 1);
        assert_eq!(all[0].scheme, "bearer");
        assert_eq!(
            all[0].get("realm"),
            Some("https://auth.example.com/token?a=b,c")
        );
        assert_eq!(all[0].get("service"), Some("reg, \"one\""));
        assert_eq!(all[0].get("scope"), Some("repository:a/b:pull,push"));
        assert_eq!(all[0].get("error"), Some("invalid_token"));
        assert_eq!(all[0].get("nothing"), None);
    }

    #[test]
    fn several_challenges_of_one_header_are_told_apart() {
        let header = r#"Negotiate, BASIC realm="x", charset=UTF-8 , bearer REALM = https://a/t"#;
        let all = Challenge::parse(header);
        assert_eq!(schemes(header), ["negotiate", "basic", "bearer"]);
        assert_eq!(all[1].get("charset"), Some("UTF-8"));
        assert_eq!(all[2].get("realm"), Some("https://a/t"));
    }

    #[test]
    fn what_cannot_be_understood_ends_it() {
        assert_eq!(schemes(""), [""; 0]);
        assert_eq!(schemes("realm=\"x\""), [""; 0]);
        assert_eq!(schemes("Bearer realm=\"open"), ["bearer"]);
        assert_eq!(schemes("Basic YWJj=="), ["basic"]);
        assert_eq!(schemes("Bearer \"x\""), ["bearer"]);
    }

    proptest! {
        #[test]
        fn nothing_that_a_server_says_panics(header in "\\PC{0,200}") {
            Challenge::parse(&header);
        }

        #[test]
        fn any_value_survives_its_quotes(value in "\\PC{0,40}") {
            let quoted = value.replace('\\', "\\\\").replace('"', "\\\"");
            let all = Challenge::parse(&format!("Bearer realm=\"{quoted}\",service=s"));
            prop_assert_eq!(all[0].get("realm"), Some(value.as_str()));
            prop_assert_eq!(all[0].get("service"), Some("s"));
        }
    }
}
