//! Options that are handed on, word for word, to other processes of this program. Which options there are is not known
//! here.

use clap::{ArgMatches, Args, Command, Error, FromArgMatches, parser::ValueSource};
use std::ffi::OsString;

/// Options, and the words that give the same ones to another process.
#[derive(Debug)]
pub(crate) struct Forwarded<T> {
    /// As they were understood.
    pub(crate) options: T,
    /// As they were given; what was left to its default is not among them.
    pub(crate) words: Vec<OsString>,
}

impl<T: Args> Args for Forwarded<T> {
    fn augment_args(command: Command) -> Command {
        T::augment_args(command)
    }

    fn augment_args_for_update(command: Command) -> Command {
        T::augment_args_for_update(command)
    }
}

impl<T: Args> FromArgMatches for Forwarded<T> {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, Error> {
        Ok(Self { words: words_of::<T>(matches), options: T::from_arg_matches(matches)? })
    }

    fn from_arg_matches_mut(matches: &mut ArgMatches) -> Result<Self, Error> {
        // First the words: making the options takes the values away.
        Ok(Self { words: words_of::<T>(matches), options: T::from_arg_matches_mut(matches)? })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), Error> {
        self.words.extend(words_of::<T>(matches));
        self.options.update_from_arg_matches(matches)
    }
}

fn words_of<T: Args>(matches: &ArgMatches) -> Vec<OsString> {
    let mut words = Vec::new();
    for argument in T::augment_args(Command::new("forwarded")).get_arguments() {
        let Some(long) = argument.get_long() else { continue };
        let id = argument.get_id().as_str();
        if matches.value_source(id) != Some(ValueSource::CommandLine) {
            continue;
        }
        if !argument.get_action().takes_values() {
            words.push(format!("--{long}").into());
            continue;
        }
        for value in matches.get_raw(id).into_iter().flatten() {
            let mut word = OsString::from(format!("--{long}="));
            word.push(value);
            words.push(word);
        }
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Debug, Args)]
    struct Some {
        #[arg(long)]
        flag: bool,
        #[arg(long, default_value_t = 3)]
        number: u32,
        #[arg(long = "label")]
        labels: Vec<String>,
    }

    #[derive(Debug, Parser)]
    struct Program {
        #[arg(long)]
        other: Option<String>,
        #[command(flatten)]
        some: Forwarded<Some>,
    }

    #[test]
    fn what_was_given_is_handed_on_and_nothing_else() {
        let cases: [(&[&str], &[&str]); 4] = [
            (&[], &[]),
            (&["--other", "x"], &[]),
            (&["--number", "3", "--flag"], &["--flag", "--number=3"]),
            (&["--label", "a=b c", "--other=x", "--label=d"], &["--label=a=b c", "--label=d"]),
        ];
        for (given, expected) in cases {
            let program = Program::try_parse_from([&["program"], given].concat()).unwrap();
            assert_eq!(program.some.words, *expected, "{given:?} {:?}", program.other);
            let again = Program::try_parse_from([&["program"], expected].concat()).unwrap().some.options;
            let first = program.some.options;
            assert_eq!((again.flag, again.number, again.labels), (first.flag, first.number, first.labels));
        }
    }
}
