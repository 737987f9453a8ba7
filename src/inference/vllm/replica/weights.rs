//! Which weights a server is known to hold, and by what name they are asked for.

use super::super::wire::WorkerState;
use crate::types::{WeightManifest, WeightVersion};

/// The weights a replica is known to hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in super::super) struct Weights {
    pub version: WeightVersion,
    /// Of the loaded file; `None` for the weights the server was started with.
    pub digest: Option<String>,
    /// The name by which requests ask for them, where they are adapters on the weights that the server was started with.
    pub adapter: Option<String>,
}

impl Weights {
    pub fn of(manifest: &WeightManifest) -> Weights {
        // Its digest is in the name, so that no other content ever has the same.
        let digest = manifest.digest.get(..16).unwrap_or(&manifest.digest);
        let adapter = manifest.base_digest.as_ref().map(|_| format!("policy-v{}-{digest}", manifest.version));
        Weights { version: manifest.version, digest: Some(manifest.digest.clone()), adapter }
    }

    /// What the workers say of the weights in the model itself, which adapters leave as they are.
    pub fn is_in(&self, worker: &WorkerState) -> bool {
        let (version, digest) = match self.adapter {
            Some(_) => (WeightVersion::INITIAL, &None),
            None => (self.version, &self.digest),
        };
        worker.version == version.0 && worker.digest == *digest
    }
}
