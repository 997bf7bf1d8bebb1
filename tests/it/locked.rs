//! `Cargo.lock` has none of the crates that `deny.toml` bans. `cargo deny` says the same and more, but takes
//! minutes to build, and this ban must hold on every machine.

#[test]
fn no_banned_crate_is_locked() {
    let read =
        |name: &str| std::fs::read_to_string(format!("{}/{name}", env!("CARGO_MANIFEST_DIR"))).unwrap();
    let policy = read("deny.toml");
    let banned: Vec<&str> = policy
        .lines()
        .filter(|line| line.starts_with("deny = ["))
        .flat_map(|line| line.split("name = \"").skip(1))
        .filter_map(|rest| rest.split('"').next())
        .collect();
    assert!(banned.contains(&"aws-lc-sys") && banned.contains(&"openssl-sys"), "{banned:?}");
    let lock = read("Cargo.lock");
    let locked: Vec<&str> =
        lock.lines().filter_map(|line| line.strip_prefix("name = \"")?.strip_suffix('"')).collect();
    assert!(locked.contains(&"kube"), "Cargo.lock is not read as it should be");
    let found: Vec<&&str> = banned.iter().filter(|name| locked.contains(name)).collect();
    assert!(found.is_empty(), "deny.toml bans {found:?}: `cargo tree --invert NAME` says who brings it in");
}
