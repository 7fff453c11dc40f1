//! The runtime with a controller that misbehaves.

use super::*;
use coracle_client::fake::{Fake, ManualClock};
use coracle_objects::catalogue;
use serde_json::json;
use std::sync::atomic::{AtomicU32, Ordering};
use tokio_util::sync::CancellationToken;

struct Clumsy {
    looks: Arc<AtomicU32>,
}

#[async_trait]
impl Controller for Clumsy {
    type Key = ObjectKey;

    async fn reconcile(&self, key: &ObjectKey) -> Result<Next, ApiError> {
        let look = self.looks.fetch_add(1, Ordering::SeqCst);
        assert_ne!(look, 0, "the first look panics");
        match look {
            1 => Err(ApiError::internal("the second fails")),
            2 if key.name == "n1" => Ok(Next::After(Duration::from_secs(100))),
            _ => Ok(Next::Done),
        }
    }
}

#[tokio::test]
async fn panics_and_failures_are_tried_again_and_a_look_can_ask_for_another() {
    let (clock, shutdown, looks) = (ManualClock::new(), CancellationToken::new(), Arc::new(AtomicU32::new(0)));
    let fake = Fake::new(&clock);
    let context = Context::new(fake.client(), Arc::new(clock.clone()), shutdown.clone());
    fake.put(catalogue::nodes(), json!({"metadata": {"name": "n1"}}));
    let counted = Arc::clone(&looks);
    let task = spawn("clumsy", &context, move |context| {
        (Clumsy { looks: Arc::clone(&counted) }, vec![same_keys(&context.caches.nodes)])
    });
    clock.run_until(Duration::from_secs(1), || looks.load(Ordering::SeqCst) == 3).await;
    clock.advance(Duration::from_secs(99)).await;
    assert_eq!(looks.load(Ordering::SeqCst), 3);
    clock.advance(Duration::from_secs(2)).await;
    assert_eq!(looks.load(Ordering::SeqCst), 4);
    fake.put(catalogue::nodes(), json!({"metadata": {"name": "n2"}}));
    clock.settle().await;
    assert_eq!(looks.load(Ordering::SeqCst), 5);
    shutdown.cancel();
    assert!(task.await.is_ok());
}
