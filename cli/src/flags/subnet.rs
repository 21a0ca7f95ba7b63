//! `--subnet`, `--ip-range` and `--gateway`: which of them belong together. Texts of
//! errors are docker's.

use ipnet::IpNet;
use skep_model::network::Pool;
use std::net::IpAddr;

/// Parses a subnet, which must not have host bits.
pub fn parse(text: &str) -> Result<IpNet, String> {
    let subnet: IpNet =
        text.parse().map_err(|_| format!("invalid CIDR address: {text:?}: write it as 10.0.0.0/16 or fd00::/64"))?;
    if subnet.addr() != subnet.network() {
        return Err(format!("invalid subnet {subnet}: it should be {}", subnet.trunc()));
    }
    Ok(subnet)
}

/// Gives each range and gateway to the one subnet that contains it.
pub fn pools(subnets: &[IpNet], ranges: &[IpNet], gateways: &[IpAddr]) -> Result<Vec<Pool>, String> {
    if ranges.len() > subnets.len() || gateways.len() > subnets.len() {
        return Err("every ip-range or gateway must have a corresponding subnet".into());
    }
    for (n, subnet) in subnets.iter().enumerate() {
        if subnets[..n].iter().any(|other| other.contains(subnet) || subnet.contains(other)) {
            return Err("multiple overlapping subnet configuration is not supported".into());
        }
    }
    let mut pools: Vec<Pool> = subnets.iter().map(|subnet| Pool { subnet: *subnet, range: None, gateway: None }).collect();
    for range in ranges {
        let pool = pools.iter_mut().find(|pool| pool.subnet.contains(range));
        let pool = pool.ok_or_else(|| format!("no matching subnet for range {range}"))?;
        if let Some(other) = pool.range.replace(*range) {
            let subnet = pool.subnet;
            return Err(format!("cannot configure multiple ranges ({range}, {other}) on the same subnet ({subnet})"));
        }
    }
    for gateway in gateways {
        let pool = pools.iter_mut().find(|pool| pool.subnet.contains(gateway));
        let pool = pool.ok_or_else(|| format!("no matching subnet for gateway {gateway}"))?;
        if let Some(other) = pool.gateway.replace(*gateway) {
            let subnet = pool.subnet;
            return Err(format!("cannot configure multiple gateways ({gateway}, {other}) for the same subnet ({subnet})"));
        }
    }
    Ok(pools)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_and_gateways_find_their_subnet() {
        let net = |text: &str| parse(text).expect(text);
        let address = |text: &str| text.parse().expect(text);
        let found = pools(
            &[net("10.9.0.0/24"), net("fd00:9::/64")],
            &[net("fd00:9::8000/113"), net("10.9.0.128/25")],
            &[address("10.9.0.1")],
        );
        let expected = [
            Pool { subnet: net("10.9.0.0/24"), range: Some(net("10.9.0.128/25")), gateway: Some(address("10.9.0.1")) },
            Pool { subnet: net("fd00:9::/64"), range: Some(net("fd00:9::8000/113")), gateway: None },
        ];
        assert_eq!(found, Ok(expected.to_vec()));
    }

    #[test]
    fn what_does_not_belong_together_is_refused() {
        type Texts = &'static [&'static str];
        let table: [(Texts, Texts, Texts, &str); 7] = [
            (&[], &[], &["10.9.0.1"], "every ip-range or gateway must have a corresponding subnet"),
            (&[], &["10.9.0.0/25"], &[], "every ip-range or gateway must have a corresponding subnet"),
            (&["10.9.0.0/16", "10.9.1.0/24"], &[], &[], "multiple overlapping subnet configuration is not supported"),
            (&["10.9.0.0/24"], &["10.8.0.0/25"], &[], "no matching subnet for range 10.8.0.0/25"),
            (&["10.9.0.0/24"], &[], &["10.8.0.1"], "no matching subnet for gateway 10.8.0.1"),
            (
                &["10.9.0.0/24", "10.8.0.0/24"],
                &["10.9.0.0/25", "10.9.0.128/25"],
                &[],
                "cannot configure multiple ranges (10.9.0.128/25, 10.9.0.0/25) on the same subnet (10.9.0.0/24)",
            ),
            (
                &["10.9.0.0/24", "10.8.0.0/24"],
                &[],
                &["10.9.0.1", "10.9.0.2"],
                "cannot configure multiple gateways (10.9.0.2, 10.9.0.1) for the same subnet (10.9.0.0/24)",
            ),
        ];
        let nets = |texts: &[&str]| texts.iter().map(|text| parse(text).expect(text)).collect::<Vec<_>>();
        for (subnets, ranges, gateways, expected) in table {
            let gateways: Vec<IpAddr> = gateways.iter().map(|text| text.parse().expect(text)).collect();
            assert_eq!(pools(&nets(subnets), &nets(ranges), &gateways), Err(expected.into()));
        }
        assert_eq!(parse("10.9.0.5/24"), Err("invalid subnet 10.9.0.5/24: it should be 10.9.0.0/24".into()));
        assert_eq!(parse("10.9.0.0"), Err("invalid CIDR address: \"10.9.0.0\": write it as 10.0.0.0/16 or fd00::/64".into()));
    }
}
