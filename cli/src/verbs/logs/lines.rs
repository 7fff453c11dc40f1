//! One log among several: whole lines, each with a prefix, so that what is printed at the same time does not mix. Keeps no
//! more than one line, and of a very long one no more than a piece.

/// Longest piece of a line that waits for its end.
const LINE_BYTES_MAX: usize = 64 * 1024;

/// See the module.
pub(super) struct Lines {
    prefix: String,
    /// What has no end yet.
    begun: Vec<u8>,
    /// The beginning of this line was given away already.
    inside: bool,
}

impl Lines {
    pub(super) fn new(prefix: String) -> Self {
        Self { prefix, begun: Vec::new(), inside: false }
    }

    /// What can be printed now.
    pub(super) fn take(&mut self, chunk: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        for piece in chunk.split_inclusive(|byte| *byte == b'\n') {
            self.begun.extend_from_slice(piece);
            let ends = piece.ends_with(b"\n");
            if ends || self.begun.len() >= LINE_BYTES_MAX {
                self.give(&mut out);
                self.inside = !ends;
            }
        }
        out
    }

    /// The last line, where it has no end.
    pub(super) fn rest(mut self) -> Vec<u8> {
        let mut out = Vec::new();
        if !self.begun.is_empty() {
            self.give(&mut out);
        }
        out
    }

    fn give(&mut self, out: &mut Vec<u8>) {
        if !self.inside {
            out.extend_from_slice(self.prefix.as_bytes());
        }
        out.append(&mut self.begun);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_come_whole_and_with_their_prefix() {
        let mut lines = Lines::new("[p] ".to_owned());
        assert_eq!(lines.take(b"one\ntw"), b"[p] one\n");
        assert_eq!(lines.take(b"o"), b"");
        assert_eq!(lines.take(b"\n\nthree"), b"[p] two\n[p] \n");
        assert_eq!(lines.rest(), b"[p] three");
        assert_eq!(Lines::new("[p] ".to_owned()).rest(), b"");
    }

    #[test]
    fn a_line_without_an_end_is_not_kept() {
        let mut lines = Lines::new("[p] ".to_owned());
        let long = vec![b'x'; LINE_BYTES_MAX];
        assert_eq!(lines.take(&long).len(), long.len() + 4);
        assert_eq!(lines.take(b"y\nz\n"), b"y\n[p] z\n");
        assert!(lines.begun.is_empty());
    }
}
