//! How much work one comparison may be: counted in steps, so that a verdict never depends on the machine or its load.

/// The work was more than was allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exhausted;

/// Steps that are left.
#[derive(Clone, Debug)]
pub struct Budget {
    left: u64,
}

impl Budget {
    /// A budget of `steps`. One step is an operation on numbers of one machine word, or a token read.
    pub fn new(steps: u64) -> Budget {
        Budget { left: steps }
    }

    /// Pays for work before it is done.
    ///
    /// # Errors
    /// [`Exhausted`], and nothing more can be paid for.
    pub fn spend(&mut self, steps: u64) -> Result<(), Exhausted> {
        match self.left.checked_sub(steps) {
            Some(left) => {
                self.left = left;
                Ok(())
            }
            None => {
                self.left = 0;
                Err(Exhausted)
            }
        }
    }

    /// Steps that are left.
    pub fn left(&self) -> u64 {
        self.left
    }
}
