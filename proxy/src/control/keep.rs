//! What is in force, in the file; and out of the file, what was evicted and is asked for while no control plane answers. It must never
//! bring back what the control plane said is gone.

use leno_proto::key::DEFAULT_VIEW;
use leno_proto::key::Key;
use leno_proto::lead::Lead;
use leno_proto::lead::leads;
use tokio::time::Instant as Time;

use crate::aside::step_aside;
use crate::control::Control;
use crate::control::Unwritten;
use crate::control::book::Keep;
use crate::control::now;
use crate::control::resource;
use crate::control::unix_millis;
use crate::state::Change;
use crate::store::Kept;
use crate::store::KeptResource;

impl Control {
    /// Brings the file up to date, if anything changed.
    pub(super) fn write(&mut self) {
        let Unwritten { resources, rejected } = std::mem::take(&mut self.unwritten);
        if resources.is_empty() && !rejected {
            return;
        }
        self.written = Some(Time::now());
        let (used_unix, remembered) = (unix_millis() / 1000, self.parts.dialer.remembered());
        let written = self.parts.store.update(|file| {
            for (key, keep) in resources {
                step_aside();
                put(file, key, keep, used_unix);
            }
            file.rejected.clone_from(self.book.rejected());
            file.control_plane = remembered;
        });
        if let Err(error) = written {
            tracing::warn!(%error, "last known good cannot be written to the volume");
        }
    }

    pub(super) fn has_evicted(&self, key: &Key) -> bool {
        // What is not written yet may be it; whoever looks closer writes first.
        let pending = self.unwritten.resources.iter().any(|(_, keep)| *keep == Keep::Evicted);
        pending || !self.parts.store.evicted(key).is_empty()
    }

    /// Puts what the file has of a key, and of all that it leads to, into force again.
    pub(super) fn revive(&mut self, root: &Key) {
        // The file may be behind by what was evicted a moment ago.
        self.write();
        let mut changes = Vec::new();
        let mut todo = vec![root.clone()];
        while let Some(like) = todo.pop() {
            for (key, one) in newest(self.parts.store.evicted(&like)) {
                if self.book.holds(&key) {
                    continue;
                }
                let Ok(resource) = resource::take(&key, one.hash, &one.bytes, self.parts.decode) else { continue };
                todo.extend(leads(&resource).into_iter().map(first_key));
                self.book.restored(key.clone(), one.hash, now());
                self.unwritten.resources.push((key.clone(), Keep::InForce(one.hash, one.bytes)));
                changes.push(Change::Put(key, resource.into()));
            }
        }
        if changes.is_empty() {
            return;
        }
        tracing::info!(%root, resources = changes.len(), "not used for long, and no control plane answers: served from the volume");
        let metrics = &self.parts.metrics.proxy;
        metrics.resources_revived.add(changes.len() as u64);
        metrics.resources_held.set(self.book.len() as i64);
        self.parts.state.apply(changes, now());
    }
}

fn put(file: &mut Kept, key: Key, keep: Keep, used_unix: i64) {
    match keep {
        Keep::InForce(hash, bytes) => {
            // A proxy is in one view of a Service; the others are not its own any more.
            if let Key::Outbound { service, .. } = &key {
                let first = Key::Outbound { service: service.clone(), view: "".into() };
                let of_service = |key: &&Key| matches!(key, Key::Outbound { service: it, .. } if it == service);
                let views = file.resources.range(first..).map(|(key, _)| key).take_while(of_service);
                let views: Vec<_> = views.cloned().collect();
                for view in views {
                    file.resources.remove(&view);
                }
            }
            file.resources.insert(key, KeptResource { hash, bytes, used_unix, evicted: false });
        }
        Keep::Evicted => {
            if let Some(one) = file.resources.get_mut(&key) {
                (one.evicted, one.used_unix) = (true, used_unix);
            }
        }
        Keep::Gone => drop(file.resources.remove(&key)),
    }
}

/// Of buckets that a Service was split into at different times, those of the last split alone: each names how many there are.
fn newest(found: Vec<(Key, KeptResource)>) -> Vec<(Key, KeptResource)> {
    let latest = found.iter().map(|(_, one)| one.used_unix).max();
    found.into_iter().filter(|(_, one)| Some(one.used_unix) == latest).collect()
}

fn first_key(lead: Lead) -> Key {
    match lead {
        Lead::Outbound(service) => Key::Outbound { service, view: DEFAULT_VIEW.into() },
        Lead::Endpoints(target) => Key::Endpoints { target, bucket: 0 },
    }
}

#[cfg(test)]
mod tests {
    use leno_proto::hash::Hash;

    use super::*;

    #[test]
    fn another_view_of_a_service_replaces_the_one_before_in_the_file() {
        let mut file = Kept::default();
        let outbound = |view: &str| Key::parse(2, &format!("shop/web@{view}")).unwrap();
        let keep = || Keep::InForce(Hash::of(b"x"), "x".into());
        put(&mut file, outbound("default"), keep(), 1);
        put(&mut file, outbound("shop"), keep(), 2);
        put(&mut file, outbound("default"), Keep::Evicted, 3);
        assert_eq!(file.resources.keys().collect::<Vec<_>>(), [&outbound("shop")]);
        put(&mut file, outbound("shop"), Keep::Evicted, 4);
        assert!(file.resources[&outbound("shop")].evicted);
        put(&mut file, outbound("shop"), Keep::Gone, 5);
        assert!(file.resources.is_empty());
    }
}
