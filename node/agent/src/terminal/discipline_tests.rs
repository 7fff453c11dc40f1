//! What keys come to, and what a screen shows.

use super::*;

/// What a screen shows in the end, line by line: enough of a terminal to see whether the echo is right.
fn seen(screen: &[u8]) -> Vec<String> {
    let mut lines = vec![Vec::<char>::new()];
    let mut column = 0;
    for character in String::from_utf8_lossy(screen).chars() {
        match character {
            '\r' => column = 0,
            '\n' => {
                lines.push(Vec::new());
                // As a terminal in raw mode: it goes down and not back.
                let line = lines.last_mut().unwrap();
                line.resize(column, ' ');
            }
            '\u{8}' => column -= 1,
            '\u{7}' => {}
            '\t' => column += 8 - column % 8,
            other => {
                let line = lines.last_mut().unwrap();
                line.resize(line.len().max(column + 1), ' ');
                line[column] = other;
                column += 1;
            }
        }
    }
    lines.into_iter().map(|line| String::from_iter(line).trim_end().to_owned()).collect()
}

fn typed(keys: &str) -> Typed {
    Discipline::default().typed(keys.as_bytes())
}

#[track_caller]
fn check(keys: &str, input: &str, screen: &str) {
    let result = typed(keys);
    assert_eq!(String::from_utf8_lossy(&result.input), input, "{keys:?}");
    assert_eq!(seen(&result.screen).join("|"), screen, "{keys:?} {:?}", String::from_utf8_lossy(&result.screen));
    assert_eq!((result.end, result.signal), (false, None), "{keys:?}");
}

#[test]
fn lines_are_shown_and_given_whole() {
    check("hello", "", "hello");
    check("hello\r", "hello\n", "hello|");
    check("hello\n", "hello\n", "hello|");
    check("one\rtwo\rthr", "one\ntwo\n", "one|two|thr");
    check("a\tb\r", "a\tb\n", "a       b|");
    check("esc\u{1b}[A\r", "esc\u{1b}[A\n", "esc^[[A|");
    // Flow control and suspending are no input.
    check("a\u{13}b\u{11}c\r", "abc\n", "abc|");
    check("lost\u{1a}kept\r", "kept\n", "lost^Zkept|");
}

#[test]
fn pieces_make_no_difference() {
    let keys = "gr\u{fc}\u{df}e\u{7f}\u{7f}x\t\u{8}y \u{16}\u{3}z\u{12}more words\u{17}\r\u{4}";
    let whole = typed(keys);
    let mut discipline = Discipline::default();
    let mut pieces = Typed::default();
    for byte in keys.as_bytes() {
        let one = discipline.typed(&[*byte]);
        pieces.screen.extend(one.screen);
        pieces.input.extend(one.input);
        pieces.end |= one.end;
    }
    assert_eq!(pieces, whole);
    assert_eq!(String::from_utf8(whole.input).unwrap(), "gr\u{fc}xy \u{3}zmore \n");
    assert!(whole.end);
}

#[test]
fn characters_words_and_lines_are_erased() {
    check("hellp\u{7f}o\r", "hello\n", "hello|");
    check("hellp\u{8}o\r", "hello\n", "hello|");
    check("\u{7f}\u{7f}x\r", "x\n", "x|");
    // A character of several bytes is one.
    check("na\u{ef}\u{7f}i\r", "nai\n", "nai|");
    check("\u{1f980}\u{7f}crab\r", "crab\n", "crab|");
    // What takes two columns or goes to the next tab stop is gone from the screen as a whole.
    check("a\u{1}\u{7f}b\r", "ab\n", "ab|");
    check("ab\t\u{7f}c\r", "abc\n", "abc|");
    check("\t\t\u{7f}\u{7f}c\r", "c\n", "c|");
    check("one two  \u{17}x\r", "one x\n", "one x|");
    check("a/path_name\u{17}b\r", "a/b\n", "a/b|");
    check("gr\u{fc}n blau\u{17}\u{17}x\r", "x\n", "x|");
    check("all of\tit\u{15}rest\r", "rest\n", "rest|");
    // Only of the line that is typed.
    check("one\r\u{7f}\u{17}\u{15}two\r", "one\ntwo\n", "one|two|");
}

#[test]
fn bytes_that_are_no_text_are_erased_one_by_one() {
    let typed = Discipline::default().typed(b"\xff\xc3\x7f\x7fx\r");
    assert_eq!(typed.input, b"x\n");
}

#[test]
fn erasing_begins_where_the_line_does() {
    let mut discipline = Discipline::default();
    let mut screen = discipline.shown(b"name? ");
    screen.extend(discipline.typed(b"\tx\x7f\x7fme").screen);
    assert_eq!(seen(&screen), ["name? me"]);
    screen.extend(discipline.typed(b"\x15\x15").screen);
    assert_eq!(seen(&screen), ["name?"]);
}

#[test]
fn the_line_can_be_seen_again_and_keys_can_stand_for_themselves() {
    check("ab\u{12}c\r", "abc\n", "ab^R|abc|");
    check("a\u{16}\u{3}b\r", "a\u{3}b\n", "a^Cb|");
    check("\u{16}\u{4}\u{16}\u{7f}\u{7f}\r", "\u{4}\n", "^D|");
}

#[test]
fn the_end_is_the_end_and_otherwise_gives_the_line() {
    let result = typed("\u{4}");
    assert_eq!((result.end, result.input.len(), result.screen.len()), (true, 0, 0));
    let result = typed("half\u{4}");
    assert_eq!((result.end, result.input.as_slice()), (false, &b"half"[..]));
    assert_eq!(seen(&result.screen), ["half"]);
    let result = typed("half\u{4}\u{4}gone\r");
    assert_eq!((result.end, result.input.as_slice()), (true, &b"half"[..]));
    assert_eq!(seen(&result.screen), ["half"], "nobody reads what follows");
    let mut discipline = Discipline::default();
    discipline.typed(b"\x04");
    assert_eq!(discipline.typed(b"\x16\x03\x03").signal, Some(SIGINT), "but it can still be ended");
    discipline.typed(b"half");
    assert_eq!(discipline.rest(), b"");
    let mut discipline = Discipline::default();
    discipline.typed(b"half");
    assert_eq!((discipline.rest().as_slice(), discipline.rest().as_slice()), (&b"half"[..], &b""[..]));
}

#[test]
fn signals_drop_what_was_typed() {
    let result = typed("one\rtwo\u{3}three\r");
    assert_eq!((result.signal, result.input.as_slice()), (Some(SIGINT), &b"three\n"[..]));
    assert_eq!(seen(&result.screen), ["one", "two^Cthree", ""]);
    let result = typed("\u{1c}\u{3}");
    assert_eq!((result.signal, result.input.len()), (Some(SIGQUIT), 0));
    assert_eq!(seen(&result.screen), ["^\\^C"]);
}

#[test]
fn a_line_has_a_bound_and_still_an_end() {
    let mut discipline = Discipline::default();
    let typed = discipline.typed(&vec![b'x'; 10_000]);
    assert_eq!(typed.input.len(), 0);
    assert_eq!(typed.screen.split(|byte| *byte == b'x').count() - 1, LINE_BYTES_MAX - 1);
    assert_eq!(typed.screen.split(|byte| *byte == BELL).count() - 1, 10_000 - (LINE_BYTES_MAX - 1));
    assert!(discipline.line.capacity() <= 2 * LINE_BYTES_MAX);
    let typed = discipline.typed(b"\ry\r");
    assert_eq!(typed.input.len(), LINE_BYTES_MAX + 2);
    assert!(typed.input.ends_with(b"xx\ny\n"));
}

#[test]
fn showing_a_line_again_has_a_bound() {
    let mut discipline = Discipline::default();
    discipline.typed(&vec![b'x'; LINE_BYTES_MAX]);
    let screen = discipline.typed(&vec![REPRINT; 30_000]).screen;
    assert!(screen.len() <= ECHO_BYTES_MAX + LINE_BYTES_MAX + 4, "{}", screen.len());
}

#[test]
fn what_is_written_goes_back_to_the_left() {
    let mut discipline = Discipline::default();
    assert_eq!(discipline.shown(b"one\ntwo\r\nthree"), b"one\r\ntwo\r\r\nthree");
    assert_eq!(seen(&discipline.shown(b"one\ntwo\n")), ["one", "two", ""]);
    assert_eq!(discipline.shown(b"\xff\x00\x1b[2J"), b"\xff\x00\x1b[2J", "the rest is the program's business");
}

#[test]
fn nothing_that_is_typed_makes_it_fail() {
    // A linear congruential sequence: every byte in many orders.
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let mut discipline = Discipline::default();
    for round in 0..200 {
        let keys: Vec<u8> = (0..500)
            .map(|_| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                u8::try_from(state >> 56).unwrap()
            })
            .filter(|key| *key != END || round == 199)
            .collect();
        let typed = discipline.typed(&keys);
        discipline.shown(&keys);
        assert!(discipline.line.len() < LINE_BYTES_MAX);
        assert!(typed.input.len() <= keys.len() + LINE_BYTES_MAX);
        assert!(typed.screen.len() <= 3 * TAB_COLUMNS * (keys.len() + LINE_BYTES_MAX));
    }
}

#[test]
fn what_an_erased_key_costs_does_not_grow_with_its_line() {
    let keys = [TAB, DELETE].repeat(20_000);
    let least_time = |line: usize| {
        let mut discipline = Discipline::default();
        discipline.typed(&vec![b'x'; line]);
        let time = || {
            let start = std::time::Instant::now();
            assert_eq!(discipline.typed(&keys).input, b"");
            start.elapsed()
        };
        std::iter::repeat_with(time).take(3).min().unwrap()
    };
    let (short, long) = (least_time(1), least_time(LINE_BYTES_MAX - 2));
    assert!(long < short * 20, "{long:?} and {short:?}");
}
