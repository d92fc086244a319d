//! What the kernel does later: it frees things when nobody can be looking at them any more (`call_rcu`).

use super::admin::NewLink;
use super::{Admin, Netns, Result};

/// Returns when all has been done that the kernel had put off until now (`rcu_barrier`). Nothing asks for that by itself, but who
/// deletes an interface waits for it (`netdev_run_todo`, net/core/dev.c): one is made and deleted in a namespace of its own.
pub fn wait_for_what_was_put_off() -> Result<()> {
    Netns::new()?.run(|| {
        let mut admin = Admin::open()?;
        admin.veth(NewLink::named("one"), NewLink::named("other"))?;
        admin.delete_link("one")
    })?
}
