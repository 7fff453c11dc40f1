//! Bodies in Kubernetes' protobuf encoding, which typed clients send for the kinds that they create from flags
//! (`kubectl create configmap`). Answers are JSON, which the same clients accept.
//!
//! Only what [`tables`] lists is read. A kind or a field that is not there refuses the body: leaving it out in
//! silence would store something else than was sent.

mod tables;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use coracle_objects::{ApiError, Reason};
use serde_json::{Map, Value, json};
use tables::{Field, Type};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

/// What every body begins with.
const MAGIC: &[u8] = b"k8s\0";

/// The same object as JSON.
///
/// # Errors
/// 400 for a damaged body, 415 for kinds and fields that are read as JSON only.
pub(super) fn decode(body: &[u8]) -> Result<Value, ApiError> {
    let envelope = body.strip_prefix(MAGIC).ok_or_else(|| damaged("it does not begin with k8s and a zero byte"))?;
    let (mut api_version, mut kind, mut raw) = (String::new(), String::new(), &[][..]);
    let mut reader = Reader(envelope);
    while let Some((number, data)) = reader.field()? {
        match (number, data) {
            (1, Data::Bytes(bytes)) => {
                let mut reader = Reader(bytes);
                while let Some((number, data)) = reader.field()? {
                    match (number, data) {
                        (1, Data::Bytes(bytes)) => api_version = text(bytes)?,
                        (2, Data::Bytes(bytes)) => kind = text(bytes)?,
                        _ => {}
                    }
                }
            }
            (2, Data::Bytes(bytes)) => raw = bytes,
            (3, Data::Bytes(encoding)) if !encoding.is_empty() => return Err(unread("compressed bodies")),
            _ => {}
        }
    }
    let table = tables::of(&api_version, &kind).ok_or_else(|| unread(&format!("{api_version} {kind}")))?;
    let mut object = json!({"apiVersion": api_version, "kind": kind});
    if let (Value::Object(fields), Some(object)) = (message(raw, table, &kind)?, object.as_object_mut()) {
        object.extend(fields);
    }
    Ok(object)
}

fn message(bytes: &[u8], table: &'static [Field], path: &str) -> Result<Value, ApiError> {
    let mut object = Map::new();
    let mut reader = Reader(bytes);
    while let Some((number, data)) = reader.field()? {
        let field = table.iter().find(|field| field.number == number);
        let field = field.ok_or_else(|| unread(&format!("field {number} of {path}")))?;
        let path = format!("{path}.{}", field.name);
        match field.kind {
            Type::List(kind) => {
                if let Some(value) = value(data, kind, true, &path)? {
                    let list = object.entry(field.name).or_insert_with(|| json!([]));
                    if let Some(list) = list.as_array_mut() {
                        list.push(value);
                    }
                }
            }
            Type::Map(kind) => {
                let (key, value) = entry(data, kind, &path)?;
                object.entry(field.name).or_insert_with(|| json!({}))[key] = value;
            }
            kind => {
                if let Some(value) = value(data, kind, field.keeps_zero, &path)? {
                    object.insert(field.name.to_owned(), value);
                }
            }
        }
    }
    Ok(Value::Object(object))
}

/// One value; `None` when it is what Go writes for "not set".
fn value(data: Data<'_>, kind: &Type, keeps_zero: bool, path: &str) -> Result<Option<Value>, ApiError> {
    Ok(match (kind, data) {
        (Type::Text, Data::Bytes(bytes)) => {
            Some(text(bytes)?).filter(|text| keeps_zero || !text.is_empty()).map(Value::from)
        }
        (Type::Bytes, Data::Bytes(bytes)) => Some(Value::from(STANDARD.encode(bytes))),
        (Type::Integer, Data::Number(number)) => {
            // Negative numbers are sign-extended to 64 bits.
            Some(number.cast_signed()).filter(|number| keeps_zero || *number != 0).map(Value::from)
        }
        (Type::Boolean, Data::Number(number)) => Some(number != 0).filter(|set| keeps_zero || *set).map(Value::from),
        (Type::Message(table), Data::Bytes(bytes)) => Some(message(bytes, table, path)?),
        (Type::Time, Data::Bytes(bytes)) => time(bytes)?,
        (Type::IntOrString, Data::Bytes(bytes)) => Some(int_or_string(bytes)?),
        _ => return Err(damaged(&format!("{path} has another type"))),
    })
}

/// A map's entry: a message of key and value.
fn entry(data: Data<'_>, kind: &Type, path: &str) -> Result<(String, Value), ApiError> {
    let Data::Bytes(bytes) = data else { return Err(damaged(&format!("{path} has another type"))) };
    let (mut key, mut held) = (String::new(), None);
    let mut reader = Reader(bytes);
    while let Some((number, data)) = reader.field()? {
        match (number, data) {
            (1, Data::Bytes(bytes)) => key = text(bytes)?,
            (2, data) => held = value(data, kind, true, path)?,
            _ => {}
        }
    }
    Ok((key, held.unwrap_or_else(|| json!(""))))
}

fn time(bytes: &[u8]) -> Result<Option<Value>, ApiError> {
    let mut seconds = None;
    let mut reader = Reader(bytes);
    while let Some((number, data)) = reader.field()? {
        if let (1, Data::Number(number)) = (number, data) {
            seconds = Some(number.cast_signed());
        }
    }
    let Some(seconds) = seconds else { return Ok(None) };
    let time = OffsetDateTime::from_unix_timestamp(seconds).ok().and_then(|time| time.format(&Rfc3339).ok());
    time.map(|time| Some(Value::from(time))).ok_or_else(|| damaged("a time is out of range"))
}

fn int_or_string(bytes: &[u8]) -> Result<Value, ApiError> {
    let (mut is_text, mut number_value, mut text_value) = (false, 0, String::new());
    let mut reader = Reader(bytes);
    while let Some((number, data)) = reader.field()? {
        match (number, data) {
            (1, Data::Number(kind)) => is_text = kind == 1,
            (2, Data::Number(number)) => number_value = number.cast_signed(),
            (3, Data::Bytes(bytes)) => text_value = text(bytes)?,
            _ => {}
        }
    }
    Ok(if is_text { Value::from(text_value) } else { Value::from(number_value) })
}

/// What a field holds on the wire.
#[derive(Clone, Copy)]
enum Data<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

/// Reads protobuf's wire format.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    /// Number and contents of the next field; `None` at the end.
    fn field(&mut self) -> Result<Option<(u64, Data<'a>)>, ApiError> {
        if self.0.is_empty() {
            return Ok(None);
        }
        let tag = self.number()?;
        let data = match tag & 7 {
            0 => Data::Number(self.number()?),
            2 => {
                let length = usize::try_from(self.number()?).map_err(|_| damaged("a length is out of range"))?;
                let (bytes, rest) = self.0.split_at_checked(length).ok_or_else(|| damaged("it ends too early"))?;
                self.0 = rest;
                Data::Bytes(bytes)
            }
            _ => return Err(damaged("a field has a type that Kubernetes does not use")),
        };
        Ok(Some((tag >> 3, data)))
    }

    fn number(&mut self) -> Result<u64, ApiError> {
        let mut number = 0_u64;
        for shift in (0..64).step_by(7) {
            let (&byte, rest) = self.0.split_first().ok_or_else(|| damaged("it ends too early"))?;
            self.0 = rest;
            number |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(number);
            }
        }
        Err(damaged("a number is out of range"))
    }
}

fn text(bytes: &[u8]) -> Result<String, ApiError> {
    String::from_utf8(bytes.to_vec()).map_err(|_| damaged("a text is not UTF-8"))
}

fn damaged(detail: &str) -> ApiError {
    ApiError::bad_request(format!("the body cannot be decoded as Kubernetes protobuf: {detail}"))
}

fn unread(what: &str) -> ApiError {
    let message = format!("this server does not read {what} in protobuf; send JSON or YAML");
    ApiError::new(Reason::UnsupportedMediaType, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A length-delimited field.
    fn field(number: u8, bytes: impl AsRef<[u8]>) -> Vec<u8> {
        let bytes = bytes.as_ref();
        [&[number << 3 | 2, u8::try_from(bytes.len()).unwrap()], bytes].concat()
    }

    /// A number field.
    fn number(number: u8, value: u8) -> Vec<u8> {
        vec![number << 3, value]
    }

    fn body(api_version: &str, kind: &str, raw: &[Vec<u8>]) -> Vec<u8> {
        let meta = [field(1, api_version), field(2, kind)].concat();
        [MAGIC.to_vec(), field(1, meta), field(2, raw.concat()), field(3, ""), field(4, "")].concat()
    }

    #[test]
    fn objects_become_json_without_gos_zero_values() {
        let metadata = field(
            1,
            [
                field(1, "x"),
                field(2, ""),
                number(7, 0),
                field(8, ""),
                field(11, [field(1, "k"), field(2, "v")].concat()),
            ]
            .concat(),
        );
        let data = |number| field(number, [field(1, "a"), field(2, "b")].concat());
        let port = [
            field(1, "http"),
            number(3, 80),
            field(4, [number(1, 0), number(2, 99), field(3, "")].concat()),
            number(5, 0),
        ]
        .concat();
        let named = field(4, [number(1, 1), number(2, 0), field(3, "web")].concat());
        let spec = field(2, [field(1, port), field(1, named), field(4, "ClusterIP"), number(13, 0)].concat());
        let meta = json!({"name": "x", "labels": {"k": "v"}});
        let cases = [
            (
                body("v1", "ConfigMap", &[metadata.clone(), data(2), data(3), number(4, 0)]),
                json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": meta, "data": {"a": "b"},
                       "binaryData": {"a": "Yg=="}, "immutable": false}),
            ),
            (
                body("v1", "Secret", &[metadata.clone(), data(2), field(3, "Opaque")]),
                json!({"apiVersion": "v1", "kind": "Secret", "metadata": meta, "data": {"a": "Yg=="},
                       "type": "Opaque"}),
            ),
            (
                body("v1", "Service", &[metadata, spec]),
                json!({"apiVersion": "v1", "kind": "Service", "metadata": meta, "spec": {"type": "ClusterIP", "ports": [
                    {"name": "http", "port": 80, "targetPort": 99}, {"targetPort": "web"}]}}),
            ),
            (
                body("v1", "DeleteOptions", &[number(1, 0), field(2, field(1, "u")), field(5, "All")]),
                json!({"apiVersion": "v1", "kind": "DeleteOptions", "gracePeriodSeconds": 0,
                       "preconditions": {"uid": "u"}, "dryRun": ["All"]}),
            ),
        ];
        for (body, expected) in cases {
            assert_eq!(decode(&body).unwrap(), expected);
        }
    }

    #[test]
    fn a_decision_on_a_signing_request_is_read() {
        let condition = [
            field(1, "Approved"),
            field(2, "KubectlApprove"),
            field(3, "yes"),
            field(4, number(1, 60)),
            field(5, ""),
            field(6, "True"),
        ];
        let spec = [field(1, "PEM"), field(4, "g"), field(5, "client auth"), field(7, "a/b"), number(8, 0)].concat();
        let parts = [field(1, field(1, "x")), field(2, spec), field(3, field(1, condition.concat()))];
        let read = decode(&body("certificates.k8s.io/v1", "CertificateSigningRequest", &parts)).unwrap();
        let condition = json!({"type": "Approved", "reason": "KubectlApprove", "message": "yes",
            "lastUpdateTime": "1970-01-01T00:01:00Z", "status": "True"});
        assert_eq!(read["status"], json!({"conditions": [condition]}));
        let spec = json!({"request": "UEVN", "groups": ["g"], "usages": ["client auth"], "signerName": "a/b",
            "expirationSeconds": 0});
        assert_eq!(read["spec"], spec);
    }

    #[test]
    fn what_is_not_read_is_refused_aloud() {
        let cases = [
            (body("v1", "Pod", &[]), 415, "v1 Pod"),
            (body("v1", "ConfigMap", &[field(9, "x")]), 415, "field 9 of ConfigMap"),
            (body("v1", "ConfigMap", &[number(2, 1)]), 400, "ConfigMap.data"),
            (body("v1", "ConfigMap", &[field(1, field(1, [0xff]))]), 400, "UTF-8"),
            (b"{}".to_vec(), 400, "k8s"),
            ([MAGIC, &[0x12, 0x7f, 1]].concat(), 400, "too early"),
            ([MAGIC, &[0xff; 12]].concat(), 400, "out of range"),
            ([MAGIC, &[0x0b]].concat(), 400, "type"),
        ];
        for (body, code, message) in cases {
            let error = decode(&body).unwrap_err();
            assert_eq!(error.code(), code, "{error}");
            assert!(error.message.contains(message), "{error}");
        }
    }
}
