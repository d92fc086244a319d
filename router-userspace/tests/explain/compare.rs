//! `wayfork compare`.

use super::*;

#[test]
fn compare_counts_every_packet_and_repeats_with_its_seed() {
    let Some(router) = Router::new() else { return };
    let (report, status) = router.json(&["compare", "--packets", "5000", "--seed", "11", "--json"], b"");
    assert_eq!(status, Some(0), "{report:#}");
    let number = |field: &str| report[field].as_u64().expect("a number");
    let sum = |field: &str| report[field].as_object().expect("a map").values().filter_map(Value::as_u64).sum::<u64>();
    assert_eq!((number("packets"), number("agree"), number("disagree"), number("seed")), (5000, 5000, 0, 11));
    assert_eq!(number("decided") + sum("passed"), 5000);
    assert_eq!(sum("verdicts"), 5000);
    assert_eq!((&report["counterexample"], &report["schema"]), (&Value::Null, &json!(1)));
    assert!(number("decided") > 1500, "{report:#}");
    assert_eq!(router.json(&["compare", "--packets", "5000", "--seed", "11", "--json"], b"").0, report);
}

#[test]
fn compare_takes_its_packets_from_a_capture() {
    let Some(router) = Router::new() else { return };
    // One ICMP packet from a host of the LAN, as a pcap file of raw IPv4 (link type 228).
    let packet =
        [&[0x45, 0, 0, 28, 0, 0, 0, 0, 64, 1, 0, 0, 192, 168, 8, 7, 8, 8, 8, 8][..], &[8, 0, 0, 0, 0, 0, 0, 0]]
            .concat();
    let mut file = vec![0xd4, 0xc3, 0xb2, 0xa1, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0, 0, 228, 0, 0, 0];
    for _ in 0..3 {
        file.extend([0, 0, 0, 0, 0, 0, 0, 0, 28, 0, 0, 0, 28, 0, 0, 0]);
        file.extend(&packet);
    }
    let (report, status) = router.json(&["compare", "--pcap", "-", "--json"], &file);
    assert_eq!(status, Some(0), "{report:#}");
    assert_eq!((&report["packets"], &report["seed"]), (&json!(3), &Value::Null), "once for each interface");
    assert_eq!(report["skipped"], json!({ "repeated": 2 }));
    // The same packet in Ethernet frames: with a VLAN tag, plain, and an ARP request.
    let frame = |kind: &[u8], payload: &[u8]| [&[2, 0, 0, 0, 0, 99, 2, 0, 0, 0, 0, 1], kind, payload].concat();
    file.truncate(20);
    file.extend([1, 0, 0, 0]);
    for frame in [
        frame(&[0x81, 0, 0, 5, 8, 0], &packet),
        frame(&[8, 0], &packet),
        frame(&[8, 6], &[0; 28]),
        frame(&[0x81, 0, 0, 5, 8, 0], &packet),
    ] {
        let length = (frame.len() as u32).to_le_bytes();
        file.extend([&[0; 8], &length[..], &length, &frame].concat());
    }
    let (report, status) = router.json(&["compare", "--pcap", "-", "--json"], &file);
    assert_eq!((status, &report["packets"]), (Some(0), &json!(3)), "{report:#}");
    assert_eq!(report["skipped"], json!({ "vlan": 2, "not-ip": 1 }));
    let output = router.wayfork(&["compare", "--pcap", "-"], b"no capture, but bytes enough to tell");
    assert_eq!(output.status.code(), Some(2), "{output:?}");
}
