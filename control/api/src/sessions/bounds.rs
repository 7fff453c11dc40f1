//! How many connections to pods there may be, of one user and of all together.

use crate::identity::Identity;
use coracle_objects::{ApiError, Reason};
use parking_lot::Mutex;
use std::{collections::HashMap, sync::Arc};

/// Connections of one user at a time.
const SESSIONS_PER_USER: usize = 128;
/// Connections of all users at a time.
const SESSIONS_PER_SERVER: usize = 512;

/// Who has how many.
#[derive(Default)]
pub(crate) struct SessionSlots {
    taken: Mutex<HashMap<String, usize>>,
}

/// The right to one connection; dropping it gives it back.
pub(crate) struct SessionSlot {
    slots: Arc<SessionSlots>,
    user: String,
}

impl SessionSlots {
    /// A slot for `identity`.
    ///
    /// # Errors
    /// 429 when there are too many.
    pub(crate) fn take(self: &Arc<Self>, identity: &Identity) -> Result<SessionSlot, ApiError> {
        let mut taken = self.taken.lock();
        let own = taken.get(&identity.user).copied().unwrap_or(0);
        let (of, bound) = if own >= SESSIONS_PER_USER {
            (format!("user \"{}\"", identity.user), SESSIONS_PER_USER)
        } else if taken.values().sum::<usize>() >= SESSIONS_PER_SERVER {
            ("this server".to_owned(), SESSIONS_PER_SERVER)
        } else {
            taken.insert(identity.user.clone(), own + 1);
            return Ok(SessionSlot { slots: Arc::clone(self), user: identity.user.clone() });
        };
        let message = format!("{of} has {bound} connections to pods already; end one and try again");
        Err(ApiError::new(Reason::TooManyRequests, message))
    }
}

impl Drop for SessionSlot {
    fn drop(&mut self) {
        let mut taken = self.slots.taken.lock();
        if let Some(own) = taken.get_mut(&self.user) {
            *own -= 1;
            if *own == 0 {
                taken.remove(&self.user);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_bounded_for_each_user_and_for_all_and_come_back() {
        let slots = Arc::new(SessionSlots::default());
        let user = |number: usize| Identity::new(format!("u{number}"), &[]);
        let mut held: Vec<_> = (0..SESSIONS_PER_USER).map(|_| slots.take(&user(0)).unwrap()).collect();
        let refused = slots.take(&user(0)).map(drop).unwrap_err();
        assert_eq!(refused.reason, Reason::TooManyRequests);
        assert!(refused.message.starts_with("user \"u0\" has 128"), "{refused}");
        for number in 1.. {
            match slots.take(&user(number)) {
                Ok(slot) => held.push(slot),
                Err(refused) => {
                    assert!(refused.message.starts_with("this server has 512"), "{refused}");
                    break;
                }
            }
        }
        assert_eq!(held.len(), SESSIONS_PER_SERVER);
        drop(held);
        assert!(slots.take(&user(0)).is_ok() && slots.taken.lock().is_empty());
    }
}
