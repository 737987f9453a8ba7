//! Failure classes, exit codes and hints: how an error reaches a person.
//!
//! Each part has one `thiserror` enum with named fields; what to do about it is a [`Hint`] beside the failure. Only
//! the command line turns errors into text.

/// Who has to act, which decides the exit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailureClass {
    /// The user's input: configuration, data, arguments. Exit code 2.
    User,
    /// The world around the program: server, disk, memory. Exit code 3.
    Environment,
    /// A broken invariant of this program. Exit code 4.
    Bug,
}

impl FailureClass {
    /// The process exit code of this class.
    pub fn exit_code(self) -> u8 {
        match self {
            FailureClass::User => 2,
            FailureClass::Environment => 3,
            FailureClass::Bug => 4,
        }
    }
}

/// What a failure means to the person who sees it.
pub trait Hint: std::error::Error {
    /// Who has to act.
    fn class(&self) -> FailureClass;

    /// What to do, in one sentence without a full stop; `None` where the message already says it.
    fn hint(&self) -> Option<String> {
        None
    }
}

/// A failure on its way to the person: the cause chain, its class and what to do.
#[derive(Debug)]
pub struct Failure {
    /// Who has to act.
    pub class: FailureClass,
    /// What to do.
    pub hint: Option<String>,
    source: Box<dyn std::error::Error + Send + Sync>,
}

impl Failure {
    /// The causes, outermost first.
    pub fn chain(&self) -> Vec<String> {
        chain(self.source.as_ref())
    }
}

/// An error's own text and those of its causes, outermost first.
pub fn chain(error: &dyn std::error::Error) -> Vec<String> {
    let mut texts = vec![error.to_string()];
    let mut cause = error.source();
    while let Some(error) = cause {
        texts.push(error.to_string());
        cause = error.source();
    }
    texts
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.chain().join(": "))
    }
}

impl<E: Hint + Send + Sync + 'static> From<E> for Failure {
    fn from(error: E) -> Self {
        Failure { class: error.class(), hint: error.hint(), source: Box::new(error) }
    }
}
