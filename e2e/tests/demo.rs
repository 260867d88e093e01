//! The demo itself, at the size that CI has time for.

use weir_e2e::demo::{self, Options};
use weir_e2e::layout::Layout;
use weir_e2e::novashop::Settings;

#[tokio::test]
async fn the_demo_recovers_every_event() -> Result<(), demo::Error> {
    let options = Options { settings: Settings { seed: 42, events: 100_000 }, parallelism: 2 };
    demo::run(&Layout::from_environment(), options).await
}
