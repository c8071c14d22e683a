//! What a user reads when something is wrong, and that the shipped files say what they claim.

use std::fmt::Write;
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::time::Duration;

use super::*;

fn file(name: &str, text: &str) -> File {
    File { name: name.into(), text: text.into() }
}

fn read(sources: &Sources) -> Result<Settings, String> {
    Settings::from_sources(sources).map_err(|error| error.to_string())
}

fn yaml(text: &str) -> Sources {
    Sources { config: Some(file("config.yaml", text)), ..Sources::default() }
}

fn variable(name: &str, value: &str) -> Variable {
    Variable { name: name.into(), value: value.into() }
}

/// Each source with what is said of it, for golden tests.
fn complaints(cases: &[Sources]) -> String {
    cases.iter().fold(String::new(), |mut all, sources| {
        let said = read(sources).err().unwrap_or_else(|| format!("ACCEPTED {sources:?}"));
        let _ = writeln!(all, "{said}");
        all
    })
}

#[test]
fn the_shipped_files_say_the_defaults() {
    let shipped = Sources {
        config: Some(file("config.yaml", include_str!("../../config.yaml"))),
        tolerance: Some(file("tolerance.conf", include_str!("../../tolerance.conf"))),
        ..Sources::default()
    };
    assert_eq!(read(&shipped), Ok(Settings::default()));
    assert_eq!(read(&Sources::default()), Ok(Settings::default()));
}

#[test]
fn the_shipped_file_names_every_key() {
    let shipped = include_str!("../../config.yaml");
    for path in keys::paths() {
        let (section, key) = path.split_once('.').unwrap_or(("", path));
        let text = shipped.split(&format!("\n{section}:\n")).nth(1).unwrap_or(shipped);
        let in_section = text.split("\n\n").next().unwrap_or(text);
        assert!(in_section.contains(key), "{path} is missing in config.yaml");
    }
}

#[test]
fn every_default_can_be_written_out() {
    let all = "leader: {listen: 127.0.0.1, listeners: [{port: '6000', mode: simple, tls: false}],
        grpc_port: '50051', admin_listen: ::1, admin_port: 8080, data_dir: /d, min_replicas: 2,
        bootstrap_nodes: 3, suspect_after: 1s, evict_after: 1m 30s, request_timeout: 5000ms,
        cache_bytes: 0, threads: 2}
node: {advertise: node-1, leader_addr: '[::1]:50051', threads: auto}
storage: {io_mode: buffered, reserve_bytes: 1GiB, max_slots: 3, segment_bytes: 67108864}
limits: {max_key_bytes: 100, max_value_bytes: 1.5MiB}
telemetry:
";
    let settings = read(&yaml(all)).unwrap();
    assert_eq!(settings.leader.evict_after, Duration::from_secs(90));
    assert_eq!(settings.leader.threads, Some(2));
    assert_eq!(settings.leader.cache_bytes, 0);
    assert_eq!(settings.storage.io_mode, IoMode::Buffered);
    assert_eq!(settings.storage.reserve.of(0), 1 << 30);
    assert_eq!(settings.limits.max_value_bytes, 3 << 19);
    assert_eq!(settings.node.advertise.as_deref(), Some("node-1"));
}

#[test]
fn the_environment_beats_the_file_and_flags_beat_both() {
    let mut sources = yaml("leader: {client_port: 1, grpc_port: 2}\nnode: {port: 3}\n");
    sources.tolerance = Some(file("tolerance.conf", "3"));
    assert_eq!(read(&sources).unwrap().leader.listeners[0].port, 1);
    sources.environment = vec![
        variable("HATOKUSE_LEADER__CLIENT_PORT", "10"),
        variable("HATOKUSE_LEADER__GRPC_PORT", "20"),
        variable("HATOKUSE_TOLERANCE", "2"),
    ];
    sources.overrides = vec![Override {
        path: "leader.grpc_port".into(),
        value: "200".into(),
        flag: "--grpc-port".into(),
    }];
    let settings = read(&sources).unwrap();
    assert_eq!(settings.leader.listeners[0].port, 10);
    assert_eq!(settings.leader.grpc_port, 200);
    assert_eq!(settings.node.port, 3);
    assert_eq!((settings.tolerance, settings.leader.min_replicas), (2, 1));
}

#[test]
fn the_floor_follows_tolerance_unless_it_is_said() {
    for (tolerance, floor) in [(1, 1), (2, 1), (3, 2), (4, 2), (7, 2)] {
        let mut sources =
            Sources { tolerance: Some(file("t", &tolerance.to_string())), ..Sources::default() };
        assert_eq!(read(&sources).unwrap().leader.min_replicas, floor);
        sources.config = Some(file("config.yaml", "leader: {min_replicas: 1}"));
        assert_eq!(read(&sources).unwrap().leader.min_replicas, 1);
    }
}

#[test]
fn an_open_leader_must_be_meant_so() {
    let text = "leader: {listen: 0.0.0.0}\nsecurity: {client_auth: none}";
    let settings = read(&yaml(text)).unwrap();
    assert_eq!(settings.leader.listen, IpAddr::V4(Ipv4Addr::UNSPECIFIED));
    assert_eq!(settings.warnings().len(), 1);
    assert!(Settings::default().warnings().is_empty());
}

#[test]
fn wrong_values_are_explained() {
    let cases = [
        "leader:\n  client_port: 70000\n",
        "leader:\n  client_port: -1\n",
        "leader:\n  client_port:\n",
        "leader:\n  client_port: [1, 2]\n",
        "leader:\n  listen: localhost\n",
        "leader:\n  threads: many\n",
        "leader:\n  suspect_after: 5\n",
        "leader:\n  evict_after: 100d\n",
        "leader:\n  listeners: 6000\n",
        "leader:\n  listeners:\n    - {port: 6000}\n    - {port: 6000}\n",
        "leader:\n  listeners: [{mode: simple}]\n",
        "leader:\n  listeners: [{port: 1, mode: detailed}]\n",
        "leader:\n  listeners: [{port: 1, mode: loud}]\n",
        "leader:\n  listeners: [{port: 1, tls: true}]\n",
        "leader:\n  listeners: [{port: 1, prot: 2}]\n",
        "node:\n  leader_addr: leader\n",
        "node:\n  leader_addr: http://leader:1\n",
        "node:\n  leader_addr: leader:0\n",
        "node:\n  advertise: a b\n",
        "node:\n  data_dir: ''\n",
        "storage:\n  io_mode: fast\n",
        "storage:\n  reserve_bytes: 10 apples\n",
        "storage:\n  max_slots: 0\n",
        "limits:\n  max_key_bytes: 64KiB\n",
        "limits:\n  max_value_bytes: \"\\e[2J\"\n",
        "security:\n  client_auth: token\n",
        "telemetry:\n  log_format: xml\n",
    ];
    insta::assert_snapshot!(complaints(&cases.map(yaml)), @r"
    config.yaml:2: leader.client_port: '70000' is not a port; write a number from 0 to 65535 (0 picks a free one)
    config.yaml:2: leader.client_port: '-1' is not a port; write a number from 0 to 65535 (0 picks a free one)
    config.yaml:2: leader.client_port: there is no value; write one, or leave the key out
    config.yaml:2: leader.client_port: one value must stand here, not several
    config.yaml:2: leader.listen: 'localhost' is not an address to listen on; write 127.0.0.1 for this machine only, 0.0.0.0 for all its networks, or one address
    config.yaml:2: leader.threads: 'many' is not such a number; write a number from 1 to 1024, or auto
    config.yaml:2: leader.suspect_after: '5' is not such a time; write one from 100ms to 1m, with its unit: 250ms, 1s
    config.yaml:2: leader.evict_after: '100d' is not such a time; write one from 200ms to 1day, with its unit: 250ms, 1s
    config.yaml:2: leader.listeners: a list must stand here, like [{port: 6000, mode: simple}]
    config.yaml:2: leader.listeners: two listeners have port 6000; give each its own
    config.yaml:2: leader.listeners: a listener needs a port, like {port: 6000, mode: simple}
    config.yaml:2: leader.listeners: mode: detailed is not supported yet; write simple
    config.yaml:2: leader.listeners: mode: 'loud' is not known here; write simple
    config.yaml:2: leader.listeners: tls: TLS is not supported yet; write false
    config.yaml:2: leader.listeners: prot is not a key of a listener; allowed: port, mode, tls
    config.yaml:2: node.leader_addr: 'leader' is not an address; write host:port, like leader:50051 or [::1]:50051
    config.yaml:2: node.leader_addr: 'http://leader:1' is not an address; write host:port, like leader:50051 or [::1]:50051
    config.yaml:2: node.leader_addr: 'leader:0' is not an address; write host:port, like leader:50051 or [::1]:50051
    config.yaml:2: node.advertise: 'a b' is not a host; write a name or an address that others can reach
    config.yaml:2: node.data_dir: '' is not a directory; write a path
    config.yaml:2: storage.io_mode: 'fast' is not known here; write unbuffered or buffered
    config.yaml:2: storage.reserve_bytes: '10 apples' is not such a size; write one from 1MiB to 1024TiB, with its unit: KiB, MiB, or auto
    config.yaml:2: storage.max_slots: '0' is not such a number; write a number from 1 to 9999
    config.yaml:2: limits.max_key_bytes: '64KiB' is not such a size; write one from 1B to 32KiB, with its unit: KiB, MiB
    config.yaml:2: limits.max_value_bytes: '\u{1b}[2J' is not such a size; write one from 1B to 256MiB, with its unit: KiB, MiB
    config.yaml:2: security.client_auth: token is not supported yet; write none
    config.yaml:2: telemetry.log_format: 'xml' is not known here; write text or json
    ");
}

#[test]
fn unknown_names_are_refused_with_the_nearest() {
    let cases = [
        "leader:\n  grpc_port: 1\n  cilent_port: 1\n",
        "node:\n  color: red\n",
        "laeder:\n  client_port: 1\n",
        "database:\n  url: x\n",
        "limits: {allow_flush: true}\n",
        "security:\n  password: x\n",
    ];
    insta::assert_snapshot!(complaints(&cases.map(yaml)), @r"
    config.yaml:3: leader.cilent_port is not a setting; did you mean leader.client_port?
    config.yaml:2: node.color is not a setting; allowed: node.listen, node.port, node.admin_listen, node.admin_port, node.advertise, node.data_dir, node.leader_addr, node.heartbeat_interval, node.threads
    config.yaml:1: laeder is not a section; did you mean leader?
    config.yaml:1: database is not a section; allowed: leader, node, storage, limits, security, telemetry
    config.yaml:1: limits.allow_flush is not supported yet; leave it out
    config.yaml:2: security.password is not a setting; allowed: security.client_auth
    ");
}

#[test]
fn text_that_is_no_configuration_is_explained() {
    let cases = [
        "leader:\n  client_port: 1\n  client_port: 2\n",
        "leader:\n  - client_port\n",
        "leader: 6000\n",
        "- leader\n",
        "hello\n",
        "leader:\n  client_port: {\n",
        "leader:\n\tclient_port: 1\n",
        "leader: {client_port: *port}\n",
        "--- \nleader:\n---\nnode:\n",
    ];
    insta::assert_snapshot!(complaints(&cases.map(yaml)), @r"
    config.yaml:3: client_port is written twice; leave one out
    config.yaml:1: leader is a section; write its keys below it, indented
    config.yaml:1: leader is a section; write its keys below it, indented
    config.yaml:1: there must be sections here: leader, node, storage, limits, security, telemetry
    config.yaml:1: there must be sections here: leader, node, storage, limits, security, telemetry
    config.yaml:2: this is not YAML: unclosed bracket '{'
    config.yaml:2: this is not YAML: tabs disallowed within this context (block indentation)
    config.yaml:1: this is not YAML: alias references unknown anchor
    config.yaml:4: a second document begins here (---); write one
    ");
}

#[test]
fn settings_that_contradict_each_other_are_explained() {
    let mut low = yaml("leader:\n  min_replicas: 3\n");
    low.tolerance = Some(file("tolerance.conf", "2"));
    let cases = [
        low,
        yaml("leader:\n  min_replicas: 3\n  bootstrap_nodes: 2\n"),
        yaml("leader:\n  client_port: 1\n  listeners: [{port: 2}]\n"),
        yaml("leader:\n  evict_after: 900ms\n"),
        yaml("node:\n  heartbeat_interval: 600ms\n"),
        yaml("limits:\n  max_value_bytes: 64MiB\n"),
        yaml("limits:\n  max_inflight_bytes: 1MiB\n"),
        yaml("leader:\n  listen: 0.0.0.0\n"),
        yaml("leader:\n  admin_listen: 10.0.0.1\n"),
    ];
    insta::assert_snapshot!(complaints(&cases), @r"
    config.yaml:2: leader.min_replicas: 3 is more than the 2 copies that tolerance asks for; write a number from 1 to 2, or auto
    config.yaml:3: leader.bootstrap_nodes: 2 nodes cannot hold the 3 copies that leader.min_replicas asks for; write 3 or more, or auto
    config.yaml:2: leader.client_port: 1 is not among leader.listeners; add it there, or leave one of the two keys out
    config.yaml:2: leader.evict_after: 900ms is not longer than leader.suspect_after, 1s
    config.yaml:2: leader.suspect_after: 1s is less than two of node.heartbeat_interval, 600ms: one late heartbeat would cost a node its place
    config.yaml:2: storage.segment_bytes: 64MiB is less than two of limits.max_value_bytes, 64MiB
    config.yaml:2: limits.max_inflight_bytes: 1MiB is less than two of limits.max_value_bytes, 8MiB
    config.yaml:2: leader.listen: 0.0.0.0 is open to other machines, and whoever reaches it may read and write; if that is meant, write security.client_auth: none
    config.yaml:2: leader.admin_listen: 10.0.0.1 is open to other machines, and whoever reaches it may read and write; if that is meant, write security.client_auth: none
    ");
}

#[test]
fn variables_and_flags_are_named_in_errors() {
    let flag = Override { path: "node.port".into(), value: "x".into(), flag: "--port".into() };
    let with =
        |name, value| Sources { environment: vec![variable(name, value)], ..Sources::default() };
    let cases = [
        with("HATOKUSE_LEADER__CLIENT_PORT", "abc"),
        with("HATOKUSE_LEADER__CLIENT_PROT", "6000"),
        with("HATOKUSE_LAEDER__CLIENT_PORT", "6000"),
        with("HATOKUSE_LEADER__LISTENERS", "6000"),
        with("HATOKUSE_LEADER__SUSPECT_AFTER", "20s"),
        with("HATOKUSE_TOLERANCE", "8"),
        Sources { overrides: vec![flag], ..Sources::default() },
    ];
    insta::assert_snapshot!(complaints(&cases), @r"
    HATOKUSE_LEADER__CLIENT_PORT: leader.client_port: 'abc' is not a port; write a number from 0 to 65535 (0 picks a free one)
    HATOKUSE_LEADER__CLIENT_PROT: leader.client_prot is not a setting; did you mean leader.client_port?
    HATOKUSE_LAEDER__CLIENT_PORT: laeder.client_port is not a setting; did you mean leader.client_port?
    HATOKUSE_LEADER__LISTENERS: leader.listeners: a list must stand here, like [{port: 6000, mode: simple}]
    HATOKUSE_LEADER__SUSPECT_AFTER: leader.evict_after: 10s is not longer than leader.suspect_after, 20s
    HATOKUSE_TOLERANCE: tolerance: '8' is not a tolerance; write one number from 1 to 7, bare or as tolerance=4
    --port: node.port: 'x' is not a port; write a number from 0 to 65535 (0 picks a free one)
    ");
}

#[test]
fn tolerance_may_be_bare_or_named_and_commented() {
    for text in ["4", " 4 \n", "# copies\n\ntolerance=4 # four\n", "Tolerance = 4", "\u{feff}4\r\n"]
    {
        assert_eq!(parse_tolerance(&file("tolerance.conf", text)), Ok(4), "{text:?}");
    }
}

#[test]
fn a_wrong_tolerance_is_explained() {
    let texts =
        ["", "# nothing\n", "0", "8", "4.5", "\n\nfour", "tolerance=", "copies=4", "3\n4\n"];
    let cases = texts.map(|text| Sources {
        tolerance: Some(file("tolerance.conf", text)),
        ..Sources::default()
    });
    insta::assert_snapshot!(complaints(&cases), @r"
    tolerance.conf: there is no number; write one number from 1 to 7, bare or as tolerance=4
    tolerance.conf: there is no number; write one number from 1 to 7, bare or as tolerance=4
    tolerance.conf:1: '0' is not a tolerance; write one number from 1 to 7, bare or as tolerance=4
    tolerance.conf:1: '8' is not a tolerance; write one number from 1 to 7, bare or as tolerance=4
    tolerance.conf:1: '4.5' is not a tolerance; write one number from 1 to 7, bare or as tolerance=4
    tolerance.conf:3: 'four' is not a tolerance; write one number from 1 to 7, bare or as tolerance=4
    tolerance.conf:1: '' is not a tolerance; write one number from 1 to 7, bare or as tolerance=4
    tolerance.conf:1: 'copies=4' is not a tolerance; write one number from 1 to 7, bare or as tolerance=4
    tolerance.conf:2: a second value; write one number from 1 to 7, bare or as tolerance=4
    ");
}

#[test]
fn the_reserve_is_a_share_of_the_disk_but_not_too_little() {
    assert_eq!(Reserve::Auto.of(0), 64 << 20);
    assert_eq!(Reserve::Auto.of(100 << 30), 5 << 30);
    assert_eq!(Reserve::Bytes(7).of(100 << 30), 7);
}

#[test]
fn a_file_that_was_found_once_may_not_go_unnoticed() {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("config.yaml");
    std::fs::write(&config, "leader: {}\n").unwrap();
    let paths = load::Paths { config: Some(config), tolerance: None };
    assert_eq!(paths.with_found(Vec::new()), paths, "there is none");
    let tolerance = folder.path().join("tolerance.conf");
    std::fs::write(&tolerance, "3").unwrap();
    let found = paths.with_found(Vec::new());
    assert_eq!(found.tolerance, Some(tolerance.clone()));
    let variable = ("HATOKUSE_TOLERANCE_FILE".into(), "elsewhere".into());
    assert_eq!(paths.with_found([variable]), paths, "another one counts");
    std::fs::remove_file(tolerance).unwrap();
    let error = load::load(&found, Vec::new(), Vec::new()).unwrap_err().to_string();
    assert!(error.contains("tolerance.conf: cannot read it"), "{error}");
}

#[test]
fn a_file_that_was_replaced_under_a_mount_is_not_read() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tolerance.conf");
    std::fs::write(&path, "3").unwrap();
    // What a mount of one file still shows once another was put in its place.
    let mounted = std::fs::File::open(&path).unwrap();
    std::fs::remove_file(&path).unwrap();
    let name = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&mounted));
    let paths = load::Paths { config: None, tolerance: Some(name.into()) };
    let error = load::load(&paths, Vec::new(), Vec::new()).unwrap_err().to_string();
    assert!(error.contains("another file was put in its place"), "{error}");
}

fn load_in(folder: &Path, environment: &[(&str, &str)]) -> Result<Settings, String> {
    let environment = environment.iter().map(|(name, value)| (name.into(), value.into()));
    let paths = load::Paths { config: Some(folder.join("config.yaml")), tolerance: None };
    let loaded = load::load(&paths, environment, Vec::new());
    loaded.map_err(|error| error.to_string().replace(&folder.display().to_string(), "FOLDER"))
}

#[test]
fn files_are_read_from_where_they_are_said_to_be() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let missing = load_in(folder.path(), &[]).unwrap_err();
    assert!(missing.starts_with("FOLDER/config.yaml: cannot read it: "), "{missing}");

    std::fs::write(path("config.yaml"), "leader: {client_port: 7000}").unwrap();
    std::fs::write(path("tolerance.conf"), "3").unwrap();
    std::fs::write(path("port"), "7001\n").unwrap();
    std::fs::write(path("other"), "# two\ntolerance=2\n").unwrap();
    assert_eq!(load_in(folder.path(), &[]).unwrap().tolerance, 3);

    let (port, other) = (path("port"), path("other"));
    let environment = [
        ("HATOKUSE_LEADER__CLIENT_PORT_FILE", port.to_str().unwrap()),
        ("HATOKUSE_TOLERANCE_FILE", other.to_str().unwrap()),
        ("HATOKUSE_ADDR", "for the command line"),
        ("PATH", "/bin"),
    ];
    let settings = load_in(folder.path(), &environment).unwrap();
    assert_eq!((settings.leader.listeners[0].port, settings.tolerance), (7001, 2));

    let lost = [("HATOKUSE_LEADER__CLIENT_PORT_FILE", "/nowhere/at/all")];
    let error = load_in(folder.path(), &lost).unwrap_err();
    assert!(
        error.starts_with("HATOKUSE_LEADER__CLIENT_PORT_FILE: cannot read /nowhere"),
        "{error}"
    );

    std::fs::write(path("config.yaml"), vec![b'#'; 2 << 20]).unwrap();
    let error = load_in(folder.path(), &[]).unwrap_err();
    assert!(error.contains("larger than 1 MiB"), "{error}");
}
