//! A terminal's line discipline, pure: keys in, lines and what is shown of them out. The rules are those of a Linux
//! terminal that nobody has set otherwise: lines are edited before the program sees them, keys are shown, Ctrl-C and
//! Ctrl-\ are signals, Ctrl-D is the end. What is typed never makes it keep more than one line.

/// Longest line that can be typed, its end included: what a Linux terminal takes.
const LINE_BYTES_MAX: usize = 4096;
/// Nothing is shown again while so many bytes wait to be shown: a key must not be worth a whole line.
const ECHO_BYTES_MAX: usize = 64 * 1024;
/// Columns from one tab stop to the next.
const TAB_COLUMNS: usize = 8;

const BELL: u8 = 0x07;
const BACKSPACE: u8 = 0x08;
const TAB: u8 = b'\t';
const DELETE: u8 = 0x7f;

/// What a key with Ctrl sends.
const fn control(key: u8) -> u8 {
    key & 0x1f
}

const END: u8 = control(b'D');
const INTERRUPT: u8 = control(b'C');
const QUIT: u8 = control(b'\\');
const SUSPEND: u8 = control(b'Z');
const STOP_OUTPUT: u8 = control(b'S');
const START_OUTPUT: u8 = control(b'Q');
const ERASE_LINE: u8 = control(b'U');
const ERASE_WORD: u8 = control(b'W');
const REPRINT: u8 = control(b'R');
const LITERAL_NEXT: u8 = control(b'V');

/// Number of the signal that Ctrl-C is.
pub(crate) const SIGINT: u8 = 2;
/// Number of the signal that Ctrl-\ is.
pub(crate) const SIGQUIT: u8 = 3;

/// What keys come to.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Typed {
    /// For the screen.
    pub(crate) screen: Vec<u8>,
    /// For the guest to read.
    pub(crate) input: Vec<u8>,
    /// The guest has nothing more to read behind that.
    pub(crate) end: bool,
    /// The first signal that was asked for; what was typed before it is dropped.
    pub(crate) signal: Option<u8>,
}

/// One terminal's state.
#[derive(Debug, Default)]
pub(crate) struct Discipline {
    /// What is typed of the current line.
    line: Vec<u8>,
    /// The column behind that, as if nothing else had been shown meanwhile.
    line_column: usize,
    /// The columns in which the tabs of the line begin: an erased key costs the same in lines of any length.
    tabs: Vec<usize>,
    /// Where the screen writes next, as far as can be known from here.
    column: usize,
    /// The next key stands for itself.
    literal: bool,
    /// The guest's input has ended.
    ended: bool,
}

impl Discipline {
    /// Takes keys, in whatever pieces they come.
    pub(crate) fn typed(&mut self, keys: &[u8]) -> Typed {
        let mut typed = Typed::default();
        for key in keys {
            self.key(*key, &mut typed);
        }
        typed
    }

    /// Gives up the line that was begun.
    pub(crate) fn rest(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.line)
    }

    /// What the screen gets for what a program wrote.
    pub(crate) fn shown(&mut self, written: &[u8]) -> Vec<u8> {
        let mut screen = Vec::with_capacity(written.len() + written.len() / 16 + 1);
        for byte in written {
            self.put(*byte, &mut screen);
        }
        screen
    }

    fn key(&mut self, key: u8, typed: &mut Typed) {
        let literal = std::mem::take(&mut self.literal);
        match key {
            _ if literal && !self.ended => {
                self.add(key, typed);
            }
            INTERRUPT => self.signal(SIGINT, key, typed),
            QUIT => self.signal(SIGQUIT, key, typed),
            // Nobody reads it any more.
            _ if self.ended => {}
            // There is no job control; the line is dropped, as where there is.
            SUSPEND => {
                self.line.clear();
                self.echo(key, &mut typed.screen);
            }
            STOP_OUTPUT | START_OUTPUT => {}
            END if self.line.is_empty() => (self.ended, typed.end) = (true, true),
            END => typed.input.append(&mut self.line),
            BACKSPACE | DELETE => self.erase_character(&mut typed.screen),
            ERASE_WORD => self.erase_word(&mut typed.screen),
            ERASE_LINE => {
                while !self.line.is_empty() {
                    self.erase_character(&mut typed.screen);
                }
            }
            REPRINT => self.reprint(&mut typed.screen),
            LITERAL_NEXT => {
                self.literal = true;
                typed.screen.extend([b'^', BACKSPACE]);
            }
            b'\r' | b'\n' => {
                self.put(b'\n', &mut typed.screen);
                self.line.push(b'\n');
                typed.input.append(&mut self.line);
            }
            _ => self.add(key, typed),
        }
    }

    fn signal(&mut self, signal: u8, key: u8, typed: &mut Typed) {
        self.line.clear();
        typed.input.clear();
        typed.signal.get_or_insert(signal);
        self.echo(key, &mut typed.screen);
    }

    /// One more byte of the line.
    fn add(&mut self, key: u8, typed: &mut Typed) {
        // Room is left for the line's end.
        if self.line.len() + 1 >= LINE_BYTES_MAX {
            typed.screen.push(BELL);
            return;
        }
        if self.line.is_empty() {
            self.begin_line();
        }
        self.enter(key);
        self.echo(key, &mut typed.screen);
    }

    fn begin_line(&mut self) {
        self.line_column = self.column;
        self.tabs.clear();
    }

    fn enter(&mut self, key: u8) {
        if key == TAB {
            self.tabs.push(self.line_column);
        }
        self.line_column = after_echo(self.line_column, key);
        self.line.push(key);
    }

    fn erase_character(&mut self, screen: &mut Vec<u8>) {
        let Some(start) = last_character(&self.line) else { return };
        let kept = self.line.drain(start..).next();
        let before = match kept {
            Some(TAB) => self.tabs.pop().unwrap_or_default(),
            // What is no character on its own was given no column.
            Some(byte) if is_continuation(byte) => self.line_column,
            _ => self.line_column.saturating_sub(width(kept)),
        };
        let columns = if kept == Some(TAB) { self.line_column.saturating_sub(before) } else { width(kept) };
        self.line_column = before;
        for _ in 0..columns {
            match kept {
                // There is nothing to wipe out.
                Some(TAB) => screen.push(BACKSPACE),
                _ => screen.extend([BACKSPACE, b' ', BACKSPACE]),
            }
        }
        self.column = self.column.saturating_sub(columns);
    }

    /// What is no word behind the last word, and then the word.
    fn erase_word(&mut self, screen: &mut Vec<u8>) {
        let mut in_word = false;
        while let Some(start) = last_character(&self.line) {
            let first = self.line[start];
            let of_word = first.is_ascii_alphanumeric() || first == b'_' || !first.is_ascii();
            if in_word && !of_word {
                return;
            }
            in_word = of_word;
            self.erase_character(screen);
        }
    }

    fn reprint(&mut self, screen: &mut Vec<u8>) {
        if screen.len() >= ECHO_BYTES_MAX {
            return;
        }
        self.echo(REPRINT, screen);
        self.put(b'\n', screen);
        self.begin_line();
        for byte in std::mem::take(&mut self.line) {
            self.enter(byte);
            self.echo(byte, screen);
        }
    }

    /// Shows a key that was pressed: control characters by their letter.
    fn echo(&mut self, key: u8, screen: &mut Vec<u8>) {
        if width(Some(key)) == 2 {
            screen.extend([b'^', key ^ 0x40]);
            self.column += 2;
        } else {
            self.put(key, screen);
        }
    }

    fn put(&mut self, byte: u8, screen: &mut Vec<u8>) {
        self.column = match byte {
            b'\n' => {
                screen.push(b'\r');
                0
            }
            b'\r' => 0,
            BACKSPACE => self.column.saturating_sub(1),
            _ if byte.is_ascii_control() && byte != TAB => self.column,
            _ => after_echo(self.column, byte),
        };
        screen.push(byte);
    }
}

/// Where the last character of a line begins. What is not UTF-8 counts byte by byte.
fn last_character(line: &[u8]) -> Option<usize> {
    /// Longest character, in bytes.
    const CHARACTER_BYTES_MAX: usize = 4;
    let last = line.len().checked_sub(1)?;
    let earliest = line.len().saturating_sub(CHARACTER_BYTES_MAX);
    let start =
        (earliest..=last).find(|start| str::from_utf8(&line[*start..]).is_ok_and(|text| text.chars().count() == 1));
    Some(start.unwrap_or(last))
}

/// Where the cursor is behind the echo of `byte`.
fn after_echo(column: usize, byte: u8) -> usize {
    match byte {
        TAB => column + TAB_COLUMNS - column % TAB_COLUMNS,
        _ if is_continuation(byte) => column,
        _ => column + width(Some(byte)),
    }
}

/// Columns that a character takes that begins with this byte and is no tab.
fn width(first: Option<u8>) -> usize {
    match first {
        None => 0,
        Some(byte) if byte.is_ascii_control() && byte != TAB && byte != b'\n' => 2,
        Some(_) => 1,
    }
}

fn is_continuation(byte: u8) -> bool {
    byte & 0xc0 == 0x80
}

#[cfg(test)]
#[path = "discipline_tests.rs"]
mod tests;
