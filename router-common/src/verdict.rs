//! The words for what happens to a packet.

/// What happens to one packet in the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Verdict {
    /// Nothing decided: the stack's alone.
    Undecided = 0,
    /// Sent on to a next hop.
    Forward = 1,
    /// For this host.
    Local = 2,
    /// A source (or destination) that the kernel refuses, rp_filter included.
    Martian = 3,
    /// Dropped silently.
    Blackhole = 4,
    /// Answered "unreachable".
    Unreachable = 5,
    /// Answered "administratively prohibited".
    Prohibit = 6,
    /// No rule gave a route.
    NoRoute = 7,
}

impl Verdict {
    /// Every verdict, in the order of its number.
    pub const ALL: [Verdict; 8] = [
        Verdict::Undecided,
        Verdict::Forward,
        Verdict::Local,
        Verdict::Martian,
        Verdict::Blackhole,
        Verdict::Unreachable,
        Verdict::Prohibit,
        Verdict::NoRoute,
    ];

    /// The contract's word.
    pub fn name(self) -> &'static str {
        match self {
            Verdict::Undecided => "undecided",
            Verdict::Forward => "forward",
            Verdict::Local => "local",
            Verdict::Martian => "martian",
            Verdict::Blackhole => "blackhole",
            Verdict::Unreachable => "unreachable",
            Verdict::Prohibit => "prohibit",
            Verdict::NoRoute => "no-route",
        }
    }

    /// The verdict of a number from a map.
    pub fn from_u8(number: u8) -> Option<Self> {
        Self::ALL.get(usize::from(number)).copied()
    }
}

/// What the fast path did with a packet. The number is the index of its counter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Action {
    /// Left it untouched to the stack and to other TC programs.
    Pass = 0,
    /// Sent it out itself.
    Redirect = 1,
    /// Wrote the mark, left it to the stack.
    Mark = 2,
    /// Dropped it.
    Drop = 3,
}

impl Action {
    /// Every action, in the order of its number.
    pub const ALL: [Action; 4] = [Action::Pass, Action::Redirect, Action::Mark, Action::Drop];

    /// The contract's word.
    pub fn name(self) -> &'static str {
        match self {
            Action::Pass => "pass",
            Action::Redirect => "redirect",
            Action::Mark => "mark",
            Action::Drop => "drop",
        }
    }

    /// The action of a number from a map.
    pub fn from_u8(number: u8) -> Option<Self> {
        Self::ALL.get(usize::from(number)).copied()
    }
}

macro_rules! reasons {
    ($(#[doc = $doc:literal] $variant:ident = $number:literal, $name:literal;)*) => {
        /// Why a packet (or an interface) was left to the stack. The number is the index of its counter.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u8)]
        pub enum PassReason { $(#[doc = $doc] $variant = $number,)* }

        impl PassReason {
            /// Every reason, in the order of its number.
            pub const ALL: &'static [PassReason] = &[$(PassReason::$variant,)*];

            /// The name that status, explain and compare show.
            pub fn name(self) -> &'static str {
                match self { $(PassReason::$variant => $name,)* }
            }

            /// One sentence for a person.
            pub fn sentence(self) -> &'static str {
                match self { $(PassReason::$variant => $doc.trim_ascii_start(),)* }
            }
        }
    };
}

reasons! {
    #[doc = " The fast path is being brought up to date, or is in doubt about the kernel's state."]
    Resync = 0, "resync";
    #[doc = " The loader has not renewed its lease: it is gone or hangs."]
    LeaseExpired = 1, "lease-expired";
    #[doc = " The program knows nothing of this interface."]
    UnknownInterface = 2, "unknown-interface";
    #[doc = " This interface is left to the stack; `plan` and `status` say why."]
    InterfacePass = 3, "interface";
    #[doc = " The frame is not for this host's hardware address."]
    NotForThisHost = 4, "not-for-this-host";
    #[doc = " The frame carries a VLAN tag."]
    Vlan = 5, "vlan";
    #[doc = " Neither IPv4 nor IPv6."]
    NotIp = 6, "not-ip";
    #[doc = " The header is cut short, or its lengths or checksum are wrong."]
    BadHeader = 7, "bad-header";
    #[doc = " IPv4 options."]
    IpOptions = 8, "ip-options";
    #[doc = " IPv6 hop-by-hop options, several extension headers, or one that the flow dissector does not know."]
    ExtensionHeader = 9, "extension-header";
    #[doc = " TTL or hop limit 1: the stack answers with an ICMP error."]
    Ttl = 10, "ttl";
    #[doc = " For an address of this host, broadcast, multicast or link-local."]
    LocalDestination = 11, "local-destination";
    #[doc = " The source is one that the stack judges: this host's own, multicast, loopback, unspecified or link-local."]
    Source = 12, "source";
    #[doc = " This interface does not forward the family."]
    ForwardingOff = 13, "forwarding-off";
    #[doc = " A fragment, where a rule or a mark looks at ports and the stack may put the fragments together first."]
    Fragment = 14, "fragment";
    #[doc = " A rule looks at something that cannot be seen here."]
    RuleSelector = 15, "rule-selector";
    #[doc = " The rules go on for longer than the program follows them."]
    RuleLimit = 16, "rule-limit";
    #[doc = " The verdict is an ICMP error, which the stack sends."]
    IcmpError = 17, "icmp-error";
    #[doc = " Several routes or next hops, among which the stack chooses."]
    Multipath = 18, "multipath";
    #[doc = " A route that the program does not follow: an encapsulation, a tos or source route, an unknown type."]
    RouteKind = 19, "route-kind";
    #[doc = " It leaves by the interface it came in by, and the stack may send an ICMP redirect."]
    IcmpRedirect = 20, "icmp-redirect";
    #[doc = " The neighbour is not resolved or not confirmed."]
    Neighbour = 21, "neighbour";
    #[doc = " Larger than the route's or the device's MTU."]
    Mtu = 22, "mtu";
    #[doc = " The program cannot send by the outgoing interface."]
    EgressInterface = 23, "egress-interface";
    #[doc = " The verdict needs no mark: the rule that decides is the first one already."]
    NothingToMark = 24, "nothing-to-mark";
    #[doc = " The packet's mark is one that another program looks for as a whole."]
    MarkInUse = 25, "mark-in-use";
    #[doc = " The packet could not be rewritten."]
    Rewrite = 26, "rewrite";
    #[doc = " The rule that decides has decided otherwise than the kernel; `status` says of which packet (run --shadow)."]
    ShadowDisagreed = 27, "shadow-disagreed";
    #[doc = " The stack has learned a gateway or a path MTU of its own for this destination."]
    Exception = 28, "exception";
    #[doc = " IPv6 router or neighbour discovery, which this host may have to answer for others."]
    NeighbourDiscovery = 29, "neighbour-discovery";
    #[doc = " A route whose time may be over."]
    RouteExpiry = 30, "route-expiry";
}

impl PassReason {
    /// The reason of a number from a map.
    pub fn from_u8(number: u8) -> Option<Self> {
        Self::ALL.get(usize::from(number)).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_indexes() {
        for (index, reason) in PassReason::ALL.iter().enumerate() {
            assert_eq!(*reason as usize, index);
        }
        for (index, verdict) in Verdict::ALL.iter().enumerate() {
            assert_eq!(*verdict as usize, index);
        }
        for (index, action) in Action::ALL.iter().enumerate() {
            assert_eq!(*action as usize, index);
        }
    }
}
