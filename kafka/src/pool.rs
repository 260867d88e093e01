//! The producers of a session, in rotation: each fills one transaction, and is then thrown away and made anew, by a thread
//! of its own, while the others work.
//!
//! So each transaction has a producer epoch of its own, and an `EndTxn` that arrives late finds either its own
//! transaction, ended, or a newer epoch: it never ends a later one. What this costs (60 ms after a commit, since the
//! coordinator writes its markers first) is off the path of the transactions.
//!
//! A producer that is initialised while a session goes on also fences whoever has taken the bucket over meanwhile, and
//! has not read the progress that the other one made. That is why [`Watch`] looks for another holder after each
//! initialisation and before the producer is used; see [`crate::takeover`].

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    thread::JoinHandle,
};

use weir_failpoints::Guard;

use crate::{
    producer::{Producer, Settings},
    takeover::Watch,
    transaction::TransactionError,
};

/// The producers that are ready, in the order of their use.
pub(crate) struct Pool {
    ready: Receiver<Result<Producer, TransactionError>>,
    /// The one of the last transaction. It is renewed when the next one is asked for: behind the last nobody needs it.
    last: Option<Producer>,
    used: Option<SyncSender<Producer>>,
    given_up: Arc<AtomicBool>,
    renewer: Option<JoinHandle<()>>,
}

impl Pool {
    /// Of producers that are initialised, each with another transactional id.
    pub fn new(producers: Vec<Producer>, settings: Settings, watch: Watch) -> Result<Self, TransactionError> {
        // Both queues can hold all producers that there are, so sending never waits.
        let (made, ready) = sync_channel(producers.len() + 1);
        let (used, to_renew) = sync_channel::<Producer>(producers.len());
        for producer in producers {
            // The receiver is held here.
            let _ = made.send(Ok(producer));
        }
        let given_up = Arc::new(AtomicBool::new(false));
        let stop = Arc::clone(&given_up);
        let renew_all = move || {
            let mut watch = watch;
            for used in to_renew {
                // A test takes the guard out to show that a late end of one transaction then ends another.
                let renewed =
                    if weir_failpoints::stands(Guard::EpochPerTransaction) { renew(used, &settings, &mut watch, &stop) } else { Ok(used) };
                let failed = renewed.is_err();
                if made.send(renewed).is_err() || failed {
                    return;
                }
            }
        };
        let renewer = std::thread::Builder::new().name("renewer".to_owned()).spawn(renew_all).map_err(TransactionError::Thread)?;
        Ok(Self { ready, last: None, used: Some(used), given_up, renewer: Some(renewer) })
    }

    /// The next producer in turn; waits until it is initialised, which is bounded by what initialising is bounded by.
    pub fn next(&mut self) -> Result<Producer, TransactionError> {
        if let (Some(last), Some(queue)) = (self.last.take(), &self.used) {
            // It fails only if the renewer has ended; then what is ready tells why.
            let _ = queue.send(last);
        }
        // After an error the renewer has ended: whoever sees it throws the session away.
        self.ready.recv().unwrap_or(Err(TransactionError::NoProducer))
    }

    /// Takes back a producer whose transaction has ended, or will be ended by its being initialised anew.
    pub fn renew(&mut self, used: Producer) {
        self.last = Some(used);
    }
}

impl Drop for Pool {
    /// Waits for the renewer: a producer that it initialised later would fence the session that comes after this one.
    fn drop(&mut self) {
        self.given_up.store(true, Ordering::Relaxed);
        self.used = None;
        if let Some(renewer) = self.renewer.take() {
            let _ = renewer.join();
        }
    }
}

fn renew(used: Producer, settings: &Settings, watch: &mut Watch, given_up: &AtomicBool) -> Result<Producer, TransactionError> {
    let producer = Producer::new(settings, used.transactional_id())?;
    // Not before the new one is made, so that a name that was just resolved is not asked for again.
    drop(used);
    producer.init(given_up)?;
    watch.check()?;
    Ok(producer)
}
