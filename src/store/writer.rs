//! The writer: one task owns the only connection that writes, and groups commits.
//!
//! Invariants: a caller hears of success only after its rows are committed. A write is applied whole or not at all. A
//! write that fails takes no other write of its group down.

use std::sync::Arc;

use sqlx::sqlite::SqliteConnection;
use sqlx::{Connection, Executor};
use tokio::sync::{mpsc, oneshot};

use super::error::StoreError;

/// Writes waiting for the writer; more is back-pressure. A large tree is about a megabyte.
pub(super) const QUEUE_WRITES: usize = 64;

/// One domain event: what is written in one piece.
pub(super) trait Write: Send + Sync + 'static {
    /// What the caller gets once it is committed.
    type Output: Send + Sync + 'static;

    /// Writes the rows. May be called again after its effects were rolled back.
    fn apply(&self, conn: &mut SqliteConnection) -> impl Future<Output = Result<Self::Output, StoreError>> + Send;
}

/// What the writer is told.
pub(super) enum Message {
    /// A write with its reply channel.
    Write(Box<dyn Job>),
    /// Finish what is queued, then end.
    Close,
}

/// A [`Write`] on its way through the writer, its type forgotten.
pub(super) trait Job: Send {
    /// Applies the write and remembers the outcome; says whether it succeeded.
    fn run<'a>(&'a mut self, conn: &'a mut SqliteConnection) -> JobFuture<'a>;

    /// Replaces the outcome.
    fn fail(&mut self, error: StoreError);

    /// Tells the caller.
    fn acknowledge(self: Box<Self>);
}

type JobFuture<'a> = std::pin::Pin<Box<dyn Future<Output = bool> + Send + 'a>>;

struct Pending<W: Write> {
    write: W,
    outcome: Result<W::Output, StoreError>,
    reply: oneshot::Sender<Result<W::Output, StoreError>>,
}

impl<W: Write> Job for Pending<W> {
    fn run<'a>(&'a mut self, conn: &'a mut SqliteConnection) -> JobFuture<'a> {
        Box::pin(async move {
            self.outcome = self.write.apply(conn).await;
            self.outcome.is_ok()
        })
    }

    fn fail(&mut self, error: StoreError) {
        self.outcome = Err(error);
    }

    fn acknowledge(self: Box<Self>) {
        // A caller that went away no longer cares; its rows are committed all the same.
        let _ = self.reply.send(self.outcome);
    }
}

/// Hands a write to the writer and waits until it is committed.
pub(super) async fn submit<W: Write>(queue: &mpsc::Sender<Message>, write: W) -> Result<W::Output, StoreError> {
    let (reply, answer) = oneshot::channel();
    let job = Box::new(Pending { write, outcome: Err(StoreError::Closed), reply });
    queue.send(Message::Write(job)).await.map_err(|_| StoreError::Closed)?;
    answer.await.map_err(|_| StoreError::Closed)?
}

/// Serves the queue until it is closed, then empties the write-ahead log into the database.
pub(super) async fn serve(mut conn: SqliteConnection, mut queue: mpsc::Receiver<Message>) -> Result<(), StoreError> {
    while let Some(first) = queue.recv().await {
        let mut group = Vec::new();
        let mut next = Some(first);
        while let Some(message) = next {
            match message {
                Message::Write(job) => group.push(job),
                // What was queued before and meanwhile is still received, until the queue is empty.
                Message::Close => queue.close(),
            }
            next = if group.len() < QUEUE_WRITES { queue.try_recv().ok() } else { None };
        }
        commit(&mut conn, &mut group).await;
        group.into_iter().for_each(Job::acknowledge);
    }
    // Statistics for later plans: on a full disk there is no room for them, and nothing is lost.
    let _ = conn.execute("pragma optimize").await;
    conn.execute("pragma wal_checkpoint(truncate)").await?;
    conn.close().await?;
    Ok(())
}

/// How a group's common transaction ended.
enum GroupEnd {
    Committed,
    /// No transaction could be begun: nothing was tried.
    NotBegun(Arc<sqlx::Error>),
    /// The transaction is gone with everything in it.
    Broken,
}

async fn commit(conn: &mut SqliteConnection, group: &mut [Box<dyn Job>]) {
    match commit_together(conn, group).await {
        GroupEnd::Committed => {}
        GroupEnd::NotBegun(source) => {
            group.iter_mut().for_each(|job| job.fail(StoreError::Query { source: Arc::clone(&source) }));
        }
        // Each on its own, so that only those fail that cannot be written.
        GroupEnd::Broken => {
            for job in group {
                commit_alone(conn, job.as_mut()).await;
            }
        }
    }
}

// Transactions are plain statements and not `sqlx::Transaction`: SQLite may roll a transaction back by itself (disk full,
// I/O error), after which sqlx's own count of open transactions would be wrong.

async fn commit_together(conn: &mut SqliteConnection, group: &mut [Box<dyn Job>]) -> GroupEnd {
    if let Err(error) = conn.execute("begin immediate").await {
        return GroupEnd::NotBegun(Arc::new(error));
    }
    match apply_each(conn, group).await {
        Ok(()) => GroupEnd::Committed,
        Err(_) => {
            // Fails if SQLite has already rolled back, which is what is wanted.
            let _ = conn.execute("rollback").await;
            GroupEnd::Broken
        }
    }
}

async fn apply_each(conn: &mut SqliteConnection, group: &mut [Box<dyn Job>]) -> Result<(), sqlx::Error> {
    for job in group {
        conn.execute("savepoint write_one").await?;
        if !job.run(conn).await {
            conn.execute("rollback to write_one").await?;
        }
        conn.execute("release write_one").await?;
    }
    conn.execute("commit").await?;
    Ok(())
}

async fn commit_alone(conn: &mut SqliteConnection, job: &mut dyn Job) {
    if let Err(error) = conn.execute("begin immediate").await {
        return job.fail(StoreError::from(error));
    }
    if job.run(conn).await {
        match conn.execute("commit").await {
            Ok(_) => return,
            Err(error) => job.fail(StoreError::from(error)),
        }
    }
    // As above: it may be rolled back already.
    let _ = conn.execute("rollback").await;
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Inserts its number, then does what can go wrong.
    struct Insert {
        number: i64,
        then: Then,
    }

    #[derive(Clone, Copy)]
    enum Then {
        Succeed,
        Fail,
        /// What SQLite does by itself when the disk is full: the whole transaction is gone.
        LoseTransaction,
    }

    impl Write for Insert {
        type Output = i64;

        async fn apply(&self, conn: &mut SqliteConnection) -> Result<i64, StoreError> {
            sqlx::query("insert into t values (?)").bind(self.number).execute(&mut *conn).await?;
            match self.then {
                Then::Succeed => return Ok(self.number),
                Then::Fail => {}
                Then::LoseTransaction => {
                    conn.execute("rollback").await?;
                }
            }
            Err(StoreError::NotFound { what: "number", id: self.number.to_string() })
        }
    }

    /// Commits one group; returns who was told of success, and what is in the table.
    async fn check(conn: &mut SqliteConnection, first: i64, group: &[Then]) -> (Vec<bool>, Vec<i64>) {
        let mut jobs: Vec<Box<dyn Job>> = Vec::new();
        let mut answers = Vec::new();
        for (number, then) in (first..).zip(group) {
            let (reply, answer) = oneshot::channel();
            let write = Insert { number, then: *then };
            jobs.push(Box::new(Pending { write, outcome: Err(StoreError::Closed), reply }));
            answers.push(answer);
        }
        commit(conn, &mut jobs).await;
        jobs.into_iter().for_each(Job::acknowledge);
        let mut told = Vec::new();
        for answer in answers {
            told.push(answer.await.unwrap().is_ok());
        }
        (told, sqlx::query_scalar("select n from t order by n").fetch_all(conn).await.unwrap())
    }

    #[tokio::test]
    async fn a_failing_write_takes_no_other_down() {
        let mut conn = SqliteConnection::connect("sqlite::memory:").await.unwrap();
        conn.execute("create table t (n integer unique check (n < 90))").await.unwrap();
        use Then::{Fail, LoseTransaction, Succeed};
        let mut expect = async |first, group: &[Then], told: &[bool], table: &[i64]| {
            assert_eq!(check(&mut conn, first, group).await, (told.to_vec(), table.to_vec()), "from {first}");
        };
        expect(1, &[Succeed, Succeed], &[true, true], &[1, 2]).await;
        expect(3, &[Succeed, Fail, Succeed], &[true, false, true], &[1, 2, 3, 5]).await;
        expect(6, &[Succeed, LoseTransaction, Succeed], &[true, false, true], &[1, 2, 3, 5, 6, 8]).await;
        expect(9, &[LoseTransaction], &[false], &[1, 2, 3, 5, 6, 8]).await;
        expect(88, &[Fail, Succeed, Succeed], &[false, true, false], &[1, 2, 3, 5, 6, 8, 89]).await;
    }

    #[tokio::test]
    async fn without_a_transaction_everybody_is_told() {
        let mut conn = SqliteConnection::connect("sqlite::memory:").await.unwrap();
        conn.execute("create table t (n integer); begin").await.unwrap();
        let (told, table) = check(&mut conn, 1, &[Then::Succeed, Then::Succeed]).await;
        assert_eq!((told, table), (vec![false, false], vec![]));
    }
}
