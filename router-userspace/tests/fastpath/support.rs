//! What the tests share: a router of two veth ends in a namespace of its own.

use crate::plan::{Plan, rule};
use router_common::layout::*;
use router_common::verdict::{Action, PassReason};
use std::net::IpAddr;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::time::{Duration, Instant};
use wayfork::compile::words;
use wayfork::fastpath::{Capacity, FastPath};
use wayfork::kernel::admin::{Admin, NewLink, write_setting};
use wayfork::kernel::netns::Netns;
use wayfork::lab::needs;

/// Whether the tests can run at all; says on standard error what is left out where not.
pub fn privileged() -> bool {
    let missing = if wayfork::fastpath::EBPF_OBJECT.is_empty() {
        "the eBPF object is not built (`cargo xtask build --ebpf-only`)"
    } else if !nix::unistd::geteuid().is_root() {
        "not root"
    } else {
        return true;
    };
    eprintln!("LEFT OUT: a test of the fast path in the kernel: {missing}");
    false
}

/// Runs a test in a namespace that vanishes with it.
pub fn in_a_namespace(test: impl FnOnce() + Send) {
    if privileged() {
        Netns::new().expect("a network namespace").run(test).expect("run in the namespace");
    }
}

/// Whether the kernel is new enough for TCX; a test that needs it is left out loudly where it is not.
pub fn has_tcx() -> bool {
    let has = needs::release() >= (6, 6);
    if !has {
        needs::left_out("TCX", needs::Since::Version(6, 6)).unwrap();
    }
    has
}

/// The router's interface towards the hosts.
pub const LAN_MAC: [u8; 6] = [2, 0, 0, 0, 0xa, 1];
/// The router's interface towards the gateway.
pub const WAN_MAC: [u8; 6] = [2, 0, 0, 0, 0xb, 1];
/// The gateway.
pub const GATEWAY_MAC: [u8; 6] = [2, 0, 0, 0, 0xb, 2];
/// A host.
pub const HOST_MAC: [u8; 6] = [2, 0, 0, 0, 0xa, 2];
/// The table of the only rule.
pub const TABLE: u32 = 111;

pub fn addr(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

pub fn zeroed<T: bytemuck::Zeroable>() -> T {
    bytemuck::Zeroable::zeroed()
}

/// A unicast route by `oif`.
pub fn route(oif: u32, via: Option<&str>) -> RouteEntry {
    let via = via.map(addr);
    RouteEntry {
        kind: ROUTE_UNICAST,
        oif,
        via_family: via.map_or(0, |via| if via.is_ipv4() { 4 } else { 6 }),
        via: via.map_or([0; 4], words::addr),
        certain: ROUTE_HAS_NEXT_HOPS | ROUTE_LEADS_OUT | ROUTE_HAS_GROUP,
        ..zeroed()
    }
}

/// What was decided, in short.
#[derive(Debug, PartialEq, Eq)]
pub enum Told {
    Redirect(u32),
    Mark(u32),
    Drop,
    Pass(PassReason),
}

impl From<Decision> for Told {
    fn from(decision: Decision) -> Self {
        match Action::from_u8(decision.action).expect("a known action") {
            Action::Redirect => Told::Redirect(decision.oif),
            Action::Mark => Told::Mark(decision.mark),
            Action::Drop => Told::Drop,
            Action::Pass => Told::Pass(PassReason::from_u8(decision.reason).expect("a known reason")),
        }
    }
}

/// A socket that sends and receives whole frames on one interface.
pub struct Wire {
    fd: OwnedFd,
}

impl Wire {
    pub fn on(ifindex: u32) -> Self {
        let protocol = (libc::ETH_P_ALL as u16).to_be();
        // SAFETY: a plain system call.
        let fd = unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, i32::from(protocol)) };
        assert!(fd >= 0, "a packet socket: {}", std::io::Error::last_os_error());
        // SAFETY: just opened.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        // SAFETY: plain data.
        let mut name: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
        name.sll_family = libc::AF_PACKET as u16;
        name.sll_protocol = protocol;
        name.sll_ifindex = ifindex as i32;
        // SAFETY: `name` is an address of that size.
        let status = unsafe { libc::bind(fd.as_raw_fd(), (&raw const name).cast(), size_of_val(&name) as u32) };
        assert_eq!(status, 0, "bind: {}", std::io::Error::last_os_error());
        Wire { fd }
    }

    pub fn send(&self, frame: &[u8]) {
        // SAFETY: `frame` is readable.
        let sent = unsafe { libc::send(self.fd.as_raw_fd(), frame.as_ptr().cast(), frame.len(), 0) };
        assert_eq!(sent, frame.len() as isize, "send: {}", std::io::Error::last_os_error());
    }

    /// The next frame that came in (not one that went out) within half a second.
    pub fn receive(&self) -> Option<Vec<u8>> {
        self.receive_within(Duration::from_millis(500))
    }

    pub fn receive_within(&self, time: Duration) -> Option<Vec<u8>> {
        let end = Instant::now() + time;
        loop {
            let left = end.saturating_duration_since(Instant::now()).as_millis() as i32;
            let mut poll = libc::pollfd { fd: self.fd.as_raw_fd(), events: libc::POLLIN, revents: 0 };
            // SAFETY: one entry.
            if unsafe { libc::poll(&raw mut poll, 1, left) } <= 0 {
                return None;
            }
            let mut buffer = vec![0u8; 70_000];
            // SAFETY: plain data.
            let mut from: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
            let mut size = size_of_val(&from) as u32;
            // SAFETY: buffer and address are writable and as long as said.
            let received = unsafe {
                let (to, len) = (buffer.as_mut_ptr().cast(), buffer.len());
                libc::recvfrom(self.fd.as_raw_fd(), to, len, 0, (&raw mut from).cast(), &raw mut size)
            };
            assert!(received >= 0, "receive: {}", std::io::Error::last_os_error());
            if from.sll_pkttype != libc::PACKET_OUTGOING {
                buffer.truncate(received as usize);
                return Some(buffer);
            }
        }
    }
}

/// Reads one packet of a TUN device within half a second.
pub fn read_tun(tun: &OwnedFd) -> Option<Vec<u8>> {
    let mut poll = libc::pollfd { fd: tun.as_raw_fd(), events: libc::POLLIN, revents: 0 };
    // SAFETY: one entry.
    if unsafe { libc::poll(&raw mut poll, 1, 500) } <= 0 {
        return None;
    }
    let mut buffer = vec![0u8; 70_000];
    let read = nix::unistd::read(tun, &mut buffer).expect("read the TUN device");
    buffer.truncate(read);
    Some(buffer)
}

/// A router in the calling thread's namespace: `lan` and `wan`, each a veth end whose other end (`lan0`, `wan0`) the test
/// holds. No address, no IPv6, no forwarding: whatever arrives was carried by the program.
pub struct Router {
    pub fast: FastPath,
    pub generation: Plan,
    pub admin: Admin,
    pub lan: u32,
    pub wan: u32,
    pub hosts: Wire,
    pub gateway: Wire,
}

impl Router {
    /// With the default route of table 111 to 10.0.0.1 and fe80::1 on `wan`; every packet from `lan` looks there and may be
    /// redirected. Applied, leased, attached nowhere.
    pub fn new() -> Self {
        Self::with_wan_index(None)
    }

    pub fn with_wan_index(index: Option<u32>) -> Self {
        write_setting("net.ipv6.conf.default.disable_ipv6", "1").expect("no IPv6 of the stack's own");
        let mut admin = Admin::open().expect("a netlink socket");
        let (lan, lan0) = (NewLink::named("lan").mac(LAN_MAC), NewLink::named("lan0").mac(HOST_MAC));
        admin.veth(lan, lan0).expect("make lan");
        let mut wan = NewLink::named("wan").mac(WAN_MAC);
        wan.index = index;
        admin.veth(wan, NewLink::named("wan0").mac(GATEWAY_MAC)).expect("make wan");
        // So that packets come in that do not go out.
        for name in ["lan", "lan0"] {
            admin.set_mtu(name, 2000).expect("an MTU");
        }
        for name in ["lan", "lan0", "wan", "wan0"] {
            admin.up(name).expect("up");
        }
        let mut index = |name| admin.index(name).expect("an index");
        let (lan, wan, lan0, wan0) = (index("lan"), index("wan"), index("lan0"), index("wan0"));
        let generation = base(lan, wan);
        let fast = FastPath::load(Capacity::of(&generation.lay())).expect("load the fast path");
        let (hosts, gateway) = (Wire::on(lan0), Wire::on(wan0));
        let mut router = Router { fast, generation, admin, lan, wan, hosts, gateway };
        router.change(|_| ());
        router.fast.renew_lease(Duration::from_secs(3600)).expect("a lease");
        router
    }

    /// Attached to `lan`.
    pub fn attached() -> Self {
        let mut router = Self::new();
        router.fast.attach(router.lan).expect("attach to lan");
        router
    }

    /// Changes the generation and applies it.
    pub fn change(&mut self, change: impl FnOnce(&mut Plan)) {
        change(&mut self.generation);
        self.fast.apply(&self.generation.lay()).expect("apply the generation");
    }

    /// Changes what is known of an interface.
    pub fn change_link(&mut self, index: u32, change: impl FnOnce(&mut LinkEntry)) {
        self.change(|generation| change(generation.links.get_mut(&index).expect("a known link")));
    }

    /// How many packets were passed for a reason.
    pub fn passed(&self, reason: PassReason) -> u64 {
        let counters = self.fast.pass_counters().expect("counters");
        counters.iter().find(|(other, _)| *other == reason).expect("every reason is counted").1.packets
    }
}

/// What [`Router::new`] applies.
fn base(lan: u32, wan: u32) -> Plan {
    let mut plan = Plan { rules: vec![rule(ACT_TABLE, TABLE)], ..Plan::default() };
    plan.add_link(lan, LAN_MAC);
    plan.add_link(wan, WAN_MAC);
    plan.counters = vec![Some("the only rule".to_owned())];
    plan.add_route(TABLE, "0.0.0.0/0", route(wan, Some("10.0.0.1")));
    plan.add_route(TABLE, "::/0", route(wan, Some("fe80::1")));
    plan.add_neighbour(wan, "10.0.0.1", GATEWAY_MAC);
    plan.add_neighbour(wan, "fe80::1", GATEWAY_MAC);
    plan
}
