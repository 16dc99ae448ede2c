//! The script that `nft` is given.

use super::*;

fn rules() -> Rules {
    Rules {
        inbound_port: 15006,
        outbound_port: 15001,
        proxy_uid: 1337,
        skip_inbound_ports: vec![15020, 22],
        skip_outbound_ports: vec![],
        skip_outbound_subnets: vec!["169.254.169.254/32".parse().unwrap(), "fd00::1/64".parse().unwrap()],
        skip_inbound_subnets: vec![],
    }
}

#[test]
fn the_script_replaces_our_table_in_one_transaction() {
    let expected = "\
add table inet leno
delete table inet leno
table inet leno {
  chain inbound {
    type nat hook prerouting priority dstnat; policy accept;
    tcp dport { 15020, 22 } return
    meta l4proto tcp redirect to :15006
  }
  chain outbound {
    type nat hook output priority -100; policy accept;
    meta skuid 1337 return
    oifname \"lo\" ip daddr 127.0.0.0/8 return
    ip6 daddr ::1 return
    ip daddr 169.254.169.254/32 return
    ip6 daddr fd00::/64 return
    meta l4proto tcp redirect to :15001
  }
  chain invalid {
    type filter hook prerouting priority mangle; policy accept;
    ct state invalid drop
  }
}
";
    assert_eq!(rules().script(), expected);
}

#[test]
fn undo_leaves_nothing_and_works_on_nothing() {
    assert_eq!(undo_script(), "add table inet leno\ndelete table inet leno\n");
}

#[test]
fn contradictions_name_the_field_and_the_remedy() {
    let cases: [(&str, Rules); 4] = [
        ("inbound and outbound port are both 15006", Rules { outbound_port: 15006, ..rules() }),
        ("inbound port: 0 is no port", Rules { inbound_port: 0, ..rules() }),
        ("skip outbound ports: 0 is no port", Rules { skip_outbound_ports: vec![0], ..rules() }),
        ("proxy uid: 0", Rules { proxy_uid: 0, ..rules() }),
    ];
    for (start, rules) in cases {
        let said = rules.check().unwrap_err().to_string();
        assert!(said.starts_with(start), "{said}");
    }
    rules().check().unwrap();
}
