//! The source files of `src/` as the tests of `tidy.rs` read them: their lines, their code without
//! tests and comments, and the paths that the code names.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use super::support::repository;

/// A file of `src/`.
pub(crate) struct Source {
    /// Path in `src/`.
    pub(crate) path: String,
    /// The whole text.
    pub(crate) text: String,
    /// The text before the tests, without comments and without what string literals hold.
    pub(crate) code: String,
    /// Lines before the tests at the bottom.
    pub(crate) lines: usize,
    /// Whether the file is compiled for tests only.
    pub(crate) for_tests: bool,
}

impl Source {
    /// The module that the file holds: `["dataset", "read"]` for `dataset/read.rs`.
    pub(crate) fn module(&self) -> Vec<String> {
        let path = self.path.trim_end_matches(".rs");
        let mut module: Vec<String> = path.split('/').map(str::to_owned).collect();
        if ["lib", "main", "mod"].contains(&module[module.len() - 1].as_str()) {
            module.pop();
        }
        module
    }
}

/// Every file of `src/`, sorted by path.
pub(crate) fn sources() -> Vec<Source> {
    let root = repository().join("src");
    let mut texts = BTreeMap::new();
    collect(&root, &root, &mut texts);
    let for_tests: BTreeSet<&str> = texts.values().flat_map(|text| test_modules(text)).collect();
    let source = |(path, text): (&String, &String)| {
        let own = text.split("#[cfg(test)]\nmod tests {").next();
        let own = own.unwrap_or_default();
        let name = path.trim_end_matches("/mod.rs").trim_end_matches(".rs");
        let name = name.rsplit('/').next().unwrap_or_default();
        Source {
            path: path.clone(),
            text: text.clone(),
            code: code(own),
            lines: own.lines().count(),
            for_tests: for_tests.contains(name),
        }
    };
    texts.iter().map(source).collect()
}

/// The names of the modules in other files that `text` declares for tests only.
fn test_modules(text: &str) -> impl Iterator<Item = &str> {
    let declarations = text.split("#[cfg(test)]\n").skip(1);
    declarations.filter_map(|declaration| {
        let (line, _) = declaration.split_once('\n')?;
        let (_, name) = line.trim().split_once("mod ")?;
        name.strip_suffix(';')
    })
}

fn collect(root: &Path, folder: &Path, into: &mut BTreeMap<String, String>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(root, &path, into);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let name = path.strip_prefix(root).unwrap().display().to_string();
            into.insert(name, fs::read_to_string(&path).unwrap());
        }
    }
}

/// The text without comments, its string literals emptied.
fn code(text: &str) -> String {
    let mut code = String::new();
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let length = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            rest.find("*/").map_or(rest.len(), |end| end + 2)
        } else if rest.starts_with("'\"'") {
            3
        } else if let Some(length) = literal(rest) {
            code.push_str("\"\"");
            length
        } else {
            code.push(first);
            first.len_utf8()
        };
        rest = &rest[length..];
    }
    code
}

/// The length of the string literal that `code` begins with, its quotes included.
fn literal(code: &str) -> Option<usize> {
    if let Some(raw) = code.strip_prefix('r') {
        let hashes = raw.len() - raw.trim_start_matches('#').len();
        let body = raw[hashes..].strip_prefix('"')?;
        let end = format!("\"{}", "#".repeat(hashes));
        let length = body.find(&end).map_or(body.len(), |at| at + end.len());
        return Some(1 + hashes + 1 + length);
    }
    let body = code.strip_prefix('"')?;
    let mut escaped = false;
    for (at, next) in body.char_indices() {
        match next {
            '"' if !escaped => return Some(at + 2),
            '\\' => escaped = !escaped,
            _ => escaped = false,
        }
    }
    Some(code.len())
}

/// A path that code names, such as `crate::dataset::Dataset`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Named {
    /// Its segments; a glob is `*`.
    pub(crate) segments: Vec<String>,
    /// The name under which a `use` brings it in; `None` outside of `use`.
    pub(crate) import: Option<String>,
}

/// The paths of two segments or more that `code` names; a `use` with braces names several.
pub(crate) fn paths(code: &str) -> Vec<Named> {
    let tokens = tokens(code);
    let mut found = Vec::new();
    let mut at = 0;
    while at < tokens.len() {
        let continues = at > 0 && ["::", ".", "$"].contains(&tokens[at - 1]);
        if continues || !is_word(tokens[at]) {
            at += 1;
        } else if tokens[at] == "use" {
            at = tree(&tokens, at + 1, &[], true, &mut found);
        } else {
            at = tree(&tokens, at, &[], false, &mut found);
        }
    }
    found.retain(|named| named.segments.len() > 1);
    found
}

/// Reads the path or tree of paths that begins at token `at`; returns where it ends.
fn tree(
    tokens: &[&str],
    mut at: usize,
    prefix: &[String],
    is_use: bool,
    found: &mut Vec<Named>,
) -> usize {
    let mut segments = prefix.to_vec();
    loop {
        match tokens.get(at) {
            Some(&"{") if is_use => {
                at += 1;
                while at < tokens.len() && tokens[at] != "}" {
                    at = tree(tokens, at, &segments, is_use, found);
                    at += usize::from(tokens.get(at) == Some(&","));
                }
                return at + 1;
            }
            Some(&token) if is_word(token) || token == "*" && is_use => {
                // In braces, `self` is what stands before them.
                if token != "self" || segments.is_empty() {
                    segments.push(token.to_owned());
                }
                at += 1;
            }
            _ => return at + 1,
        }
        if tokens.get(at) == Some(&"::")
            && tokens
                .get(at + 1)
                .is_some_and(|next| is_word(next) || is_use)
        {
            at += 1;
            continue;
        }
        let mut import = segments.last().cloned().filter(|_| is_use);
        if is_use && tokens.get(at) == Some(&"as") {
            import = tokens.get(at + 1).map(|name| (*name).to_owned());
            at += 2;
        }
        found.push(Named { segments, import });
        return at;
    }
}

fn is_word(token: &str) -> bool {
    token.starts_with(|first: char| first.is_alphabetic() || first == '_')
}

/// Words, `::`, and every other character that is no white space and no quotation mark.
fn tokens(code: &str) -> Vec<&str> {
    let is_part = |next: char| next.is_alphanumeric() || next == '_';
    let mut tokens = Vec::new();
    let mut rest = code;
    while let Some(first) = rest.chars().next() {
        let length = if is_part(first) {
            rest.find(|next| !is_part(next)).unwrap_or(rest.len())
        } else if rest.starts_with("::") {
            2
        } else {
            first.len_utf8()
        };
        let (token, after) = rest.split_at(length);
        if !first.is_whitespace() && first != '"' {
            tokens.push(token);
        }
        rest = after;
    }
    tokens
}

#[test]
fn paths_are_found_in_every_form() {
    let text = r##"
        use crate::error::{Error, Result}; // crate::not::this
        use crate::{config, plan::{self, Task as Work},
            run::*,
        };
        pub use super::read::Reader;
        fn f() -> crate::dataset::Block { say("https://crate::nor::this\"", $crate::nor_that()) }
        pub(crate) fn g() { super::h::<u8>(); r#"crate::"nor"::here"#; self::i(); '"'; x.y::j }
    "##;
    let found: Vec<String> = paths(&code(text))
        .into_iter()
        .map(|named| {
            let path = named.segments.join("::");
            named
                .import
                .map_or(path.clone(), |import| format!("{path} as {import}"))
        })
        .collect();
    assert_eq!(
        found,
        [
            "crate::error::Error as Error",
            "crate::error::Result as Result",
            "crate::config as config",
            "crate::plan as plan",
            "crate::plan::Task as Work",
            "crate::run::* as *",
            "super::read::Reader as Reader",
            "crate::dataset::Block",
            "super::h",
            "self::i",
        ]
    );
}
