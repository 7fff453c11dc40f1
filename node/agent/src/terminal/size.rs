//! How large a user's terminal is, as clients of Kubernetes say it: `{"Width": 80, "Height": 24}`. A guest cannot ask for
//! it, so it finds it in its environment, and changes cannot be told to it.

use serde_json::Value;

/// Of a terminal, in characters; neither is zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Size {
    columns: u16,
    lines: u16,
}

impl Size {
    /// The last one in `frames`; `None` where there is none that makes sense.
    pub(crate) fn read(frames: &[u8]) -> Option<Self> {
        let said = serde_json::Deserializer::from_slice(frames).into_iter::<Value>().map_while(Result::ok).last()?;
        let number = |name: &str| said[name].as_u64().and_then(|number| u16::try_from(number).ok());
        let (columns, lines) = (number("Width")?, number("Height")?);
        (columns > 0 && lines > 0).then_some(Self { columns, lines })
    }

    /// The environment variables that programs look at where they cannot ask.
    pub(crate) fn variables(self) -> [(String, String); 2] {
        [("COLUMNS".to_owned(), self.columns.to_string()), ("LINES".to_owned(), self.lines.to_string())]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_size_that_makes_sense_counts() {
        let size = |columns, lines| Some(Size { columns, lines });
        for (frames, expected) in [
            (&b"{\"Width\":80,\"Height\":24}"[..], size(80, 24)),
            (b"{\"Width\":80,\"Height\":24}\n{\"Width\":132,\"Height\":50}\n", size(132, 50)),
            (b"{\"Width\":80,\"Height\":24}\n{\"Wid", size(80, 24)),
            (b"{\"Width\":0,\"Height\":24}", None),
            (b"{\"Width\":80,\"Height\":70000}", None),
            (b"{\"Width\":-1,\"Height\":24}", None),
            (b"[]", None),
            (b"", None),
            (b"\xff\0", None),
        ] {
            assert_eq!(Size::read(frames), expected, "{}", String::from_utf8_lossy(frames));
        }
        let [columns, lines] = Size::read(b"{\"Width\":80,\"Height\":24}").unwrap().variables();
        assert_eq!((columns.1.as_str(), lines.1.as_str()), ("80", "24"));
    }
}
