//! IPv6 routes that are there for some time: a router advertisement gives them more, or less, and nobody announces that.

use crate::kernel::{self, Kernel};
use crate::model::Route;
use std::collections::BTreeMap;

/// Looked at from this many seconds before the time is over: routers advertise often enough for that.
const AHEAD: u32 = 20;
/// Readings of one time differ by this much: it comes in whole seconds, counted from the moment of reading.
const BLUR: u32 = 2;

/// Whether the time of a route that is soon over, or seems to be, has moved since `held` was read.
pub(super) fn moved(kernel: &mut dyn Kernel, held: &[Route]) -> kernel::Result<bool> {
    let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC).map_or(0, |now| now.tv_sec());
    let soon = |route: &Route| route.expires.is_some_and(|at| i64::from(at) <= now + i64::from(AHEAD));
    if !held.iter().any(soon) {
        return Ok(false);
    }
    Ok(differ(held, &kernel.routes()?))
}

fn differ(held: &[Route], fresh: &[Route]) -> bool {
    let times = |routes: &[Route]| -> BTreeMap<Route, u32> {
        let timed = routes.iter().filter_map(|route| Some((Route { expires: None, ..route.clone() }, route.expires?)));
        timed.collect()
    };
    let (held, fresh) = (times(held), times(fresh));
    held.len() != fresh.len()
        || held.iter().any(|(route, at)| fresh.get(route).is_none_or(|other| at.abs_diff(*other) > BLUR))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::fake::FakeKernel;
    use crate::model::{Family, RouteKind};

    fn route(expires: Option<u32>) -> Route {
        Route {
            metric: 1024,
            protocol: 9,
            expires,
            ..Route::to(254, Family::Ipv6.default_prefix(), RouteKind::Unicast)
        }
    }

    #[test]
    fn a_time_that_moved_is_seen_where_it_matters() {
        let moved = |held: u32, fresh: Option<u32>| {
            let mut kernel = FakeKernel::new();
            kernel.state_mut().routes = vec![route(fresh)];
            super::moved(&mut kernel, &[route(Some(held))]).unwrap_or(false)
        };
        assert!(moved(1, Some(1800)), "over, and given more");
        assert!(moved(1, None), "over, and to stay");
        assert!(!moved(1, Some(2)), "the same by another reading");
        assert!(!moved(u32::MAX, Some(1)), "far from over: not looked at");
    }
}
