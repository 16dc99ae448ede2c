//! Where a field stands in a document's text, for messages: the line of its key, or of the nearest thing around it that is there.
//! It only helps to find; it never decides whether a document is good.

use std::fmt;

use serde::Deserialize;
use serde::Deserializer;
use serde::de::IgnoredAny;
use serde::de::MapAccess;
use serde::de::SeqAccess;
use serde::de::Visitor;
use serde_saphyr::Spanned;

/// The line, from 1, at which a field stands. `path` is dotted, with `[index]` for items of lists and `[name]` for members whose
/// name has dots: `spec.rules[0].backendRefs[1].port`. `None`: the text is no YAML.
pub(super) fn line_of(text: &str, path: &str) -> Option<u64> {
    let root: Spanned<Node> = serde_saphyr::from_str(text).ok()?;
    let mut line = root.defined.line();
    let mut node = &root.value;
    for step in steps(path) {
        let next = match (node, step) {
            (Node::Map(members), Step::Name(name)) => members.iter().find(|member| member.name == name),
            (Node::List(items), Step::Item(name)) => name.parse::<usize>().ok().and_then(|index| items.get(index)),
            (Node::Map(members), Step::Item(name)) => members.iter().find(|member| member.name == name),
            (Node::List(_), Step::Name(_)) | (Node::Leaf, _) => None,
        };
        let Some(next) = next else { break };
        line = next.line;
        node = &next.value;
    }
    (line > 0).then_some(line)
}

/// A document without its values.
enum Node {
    Map(Vec<Member>),
    List(Vec<Member>),
    Leaf,
}

/// A member of a map, at the line of its name, or an item of a list, which has none.
struct Member {
    name: String,
    line: u64,
    value: Node,
}

enum Step<'p> {
    Name(&'p str),
    /// In brackets.
    Item(&'p str),
}

/// Names end at a dot or a bracket; what stands in brackets is one step, dots and all.
fn steps(path: &str) -> Vec<Step<'_>> {
    let mut steps = Vec::new();
    let mut rest = path;
    while !rest.is_empty() {
        if let Some(inside) = rest.strip_prefix('[') {
            let (item, after) = inside.split_once(']').unwrap_or((inside, ""));
            steps.push(Step::Item(item));
            rest = after.strip_prefix('.').unwrap_or(after);
            continue;
        }
        let end = rest.find(['.', '[']).unwrap_or(rest.len());
        steps.push(Step::Name(&rest[..end]));
        rest = rest[end..].strip_prefix('.').unwrap_or(&rest[end..]);
    }
    steps
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Node, D::Error> {
        from.deserialize_any(Nodes)
    }
}

struct Nodes;

/// Every scalar is a leaf.
macro_rules! leaves {
    ($($visit:ident: $type:ty),* $(,)?) => {
        $(fn $visit<E>(self, _: $type) -> Result<Node, E> {
            Ok(Node::Leaf)
        })*
    };
}

impl<'de> Visitor<'de> for Nodes {
    type Value = Node;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any YAML")
    }

    leaves! {
        visit_bool: bool, visit_i64: i64, visit_u64: u64, visit_i128: i128, visit_u128: u128, visit_f64: f64, visit_str: &str,
        visit_bytes: &[u8],
    }

    fn visit_unit<E>(self) -> Result<Node, E> {
        Ok(Node::Leaf)
    }

    fn visit_none<E>(self) -> Result<Node, E> {
        Ok(Node::Leaf)
    }

    fn visit_some<D: Deserializer<'de>>(self, from: D) -> Result<Node, D::Error> {
        Node::deserialize(from)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Node, A::Error> {
        let mut found = Vec::new();
        while let Some(item) = items.next_element::<Spanned<Node>>()? {
            found.push(Member { name: String::new(), line: item.defined.line(), value: item.value });
        }
        Ok(Node::List(found))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Node, A::Error> {
        let mut found = Vec::new();
        while let Some(name) = members.next_key::<Spanned<String>>()? {
            match found.len() < MEMBERS_MAX {
                true => {
                    found.push(Member { line: name.defined.line(), name: name.value, value: members.next_value()? })
                }
                false => drop(members.next_value::<IgnoredAny>()?),
            }
        }
        Ok(Node::Map(found))
    }
}

/// A map with more members is none that a person looks through.
const MEMBERS_MAX: usize = 10_000;

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "---
apiVersion: v1
metadata:
  name: a
  annotations:
    leno.dev/inbound-ports: x
spec:
  rules:
  - matches: [{path: {value: a}}]
    backendRefs:
      - name: one
      - name: two
        port: 0
  timeouts: {request: 5,
    perTry: 6}
";

    #[test]
    fn a_field_is_found_by_its_path_or_what_is_around_it() {
        let cases = [
            ("metadata.name", 4),
            ("metadata.annotations[leno.dev/inbound-ports]", 6),
            ("spec.rules", 8),
            ("spec.rules[0]", 9),
            ("spec.rules[0].matches[0].path.value", 9),
            ("spec.rules[0].matches[x-header]", 9),
            ("spec.rules[0].backendRefs[1].port", 13),
            ("spec.rules[0].backendRefs[0].port", 11),
            ("spec.rules[7].backendRefs", 8),
            ("spec.timeouts.request", 14),
            ("spec.timeouts.perTry", 15),
            ("spec.nothing.here", 7),
            ("", 2),
        ];
        for (path, line) in cases {
            assert_eq!(line_of(TEXT, path), Some(line), "{path}");
        }
        assert_eq!(line_of("kind: [", "kind"), None);
    }
}
