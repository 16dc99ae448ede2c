//! What must be done to one JSON value to make it another (RFC 6902). Lists of other lengths are replaced as a whole, so that no
//! position is ever counted twice.

use serde_json::Value;
use serde_json::json;

/// The operations, in order.
pub fn difference(from: &Value, to: &Value) -> Vec<Value> {
    let mut operations = Vec::new();
    walk("", from, to, &mut operations);
    operations
}

fn walk(path: &str, from: &Value, to: &Value, operations: &mut Vec<Value>) {
    match (from, to) {
        (from, to) if from == to => {}
        (Value::Object(before), Value::Object(after)) => {
            for name in before.keys().filter(|name| !after.contains_key(*name)) {
                operations.push(json!({"op": "remove", "path": below(path, name)}));
            }
            for (name, value) in after {
                match before.get(name) {
                    Some(old) => walk(&below(path, name), old, value, operations),
                    None => operations.push(json!({"op": "add", "path": below(path, name), "value": value})),
                }
            }
        }
        (Value::Array(before), Value::Array(after)) if before.len() == after.len() => {
            for (place, (old, new)) in before.iter().zip(after).enumerate() {
                walk(&below(path, &place.to_string()), old, new, operations);
            }
        }
        (_, to) => operations.push(json!({"op": "replace", "path": path, "value": to})),
    }
}

/// RFC 6901 section 3.
fn below(path: &str, name: &str) -> String {
    format!("{path}/{}", name.replace('~', "~0").replace('/', "~1"))
}
