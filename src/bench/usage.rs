//! What processes and the machine have used so far, from Linux's `/proc`.

use std::fs;
use std::io;
use std::path::Path;
use std::time::Duration;

use rustix::param::clock_ticks_per_second;

/// What one process has used since it began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Process {
    /// Time on a processor, in the process and in the kernel for it.
    pub cpu: Duration,
    /// Memory that it holds now, in bytes.
    pub memory: u64,
}

impl Process {
    /// Of the process with this id.
    pub fn of(pid: u32) -> io::Result<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
        let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
        let cpu = cpu_ticks(&stat).ok_or_else(|| unreadable("stat"))?;
        // A process that has just ended holds nothing any more.
        Ok(Self { cpu: from_ticks(cpu), memory: resident(&status).unwrap_or_default() })
    }
}

/// What the whole machine has done since it was started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Machine {
    /// Time that its processors worked, all together.
    pub busy: Duration,
    /// Time that there was, all processors together.
    pub total: Duration,
    /// What the disk under a directory did, if it can be told.
    pub disk: Option<Disk>,
}

/// What a disk has done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Disk {
    /// Times that its cache was flushed: what a sync of a file comes to. Some may serve several.
    pub flushes: u64,
    /// Time that it had something to do.
    pub busy: Duration,
}

impl Machine {
    /// Now, with the disk that this directory lies on.
    pub fn now(directory: &Path) -> io::Result<Self> {
        let stat = fs::read_to_string("/proc/stat")?;
        let (busy, total) = machine_ticks(&stat).ok_or_else(|| unreadable("stat"))?;
        let device = rustix::fs::stat(directory)?.st_dev;
        let device = (rustix::fs::major(device), rustix::fs::minor(device));
        let disks = fs::read_to_string("/proc/diskstats").unwrap_or_default();
        let (busy, total) = (from_ticks(busy), from_ticks(total));
        Ok(Self { busy, total, disk: disk(&disks, device) })
    }
}

fn unreadable(what: &str) -> io::Error {
    io::Error::other(format!("/proc: {what} is not as expected"))
}

fn from_ticks(ticks: u64) -> Duration {
    let second = clock_ticks_per_second().max(1);
    Duration::from_micros(ticks.saturating_mul(1_000_000) / second)
}

/// User and system time of a line of `/proc/PID/stat`. The name in it may hold anything, spaces
/// and parentheses too; fields are counted from its end.
fn cpu_ticks(stat: &str) -> Option<u64> {
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_ascii_whitespace().skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some(user + system)
}

/// `VmRSS` of `/proc/PID/status`, in bytes.
fn resident(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kilobytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kilobytes << 10)
}

/// Busy and total time of the first line of `/proc/stat`.
fn machine_ticks(stat: &str) -> Option<(u64, u64)> {
    let fields = stat.lines().next()?.strip_prefix("cpu ")?;
    // The two after these are counted within the first already.
    let ticks = fields.split_ascii_whitespace().take(8).map(str::parse);
    let ticks: Vec<u64> = ticks.collect::<Result<_, _>>().ok()?;
    let total = ticks.iter().sum();
    let idle: u64 = ticks.iter().skip(3).take(2).sum();
    Some((total - idle, total))
}

/// The line of a device in `/proc/diskstats`.
fn disk(stats: &str, (major, minor): (u32, u32)) -> Option<Disk> {
    let is_it = |fields: &Vec<&str>| {
        let number = |at: usize| fields.get(at).and_then(|field| field.parse().ok());
        number(0) == Some(major) && number(1) == Some(minor)
    };
    let fields = stats.lines().map(|line| line.split_ascii_whitespace().collect()).find(is_it)?;
    let number = |at: usize| fields.get(at).and_then(|field| field.parse().ok());
    Some(Disk { busy: Duration::from_millis(number(12)?), flushes: number(18)? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_proc_says_is_understood() {
        let stat = "4711 (a) b (c)) S 1 2 3 4 5 6 7 8 9 10 130 20 0 0 20 0 1 0 100";
        assert_eq!(cpu_ticks(stat), Some(150));
        assert_eq!(resident("VmHWM:\t  9 kB\nVmRSS:\t    2048 kB\n"), Some(2 << 20));
        let stat = "cpu  100 1 50 800 30 2 3 4 77 88\ncpu0 1 2 3\n";
        assert_eq!(machine_ticks(stat), Some((160, 990)));
        let disks = " 7 0 loop0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0\n \
                     254 0 vda 1 2 3 4 5 6 7 8 9 1500 11 12 13 14 15 751 944\n";
        let expected = Disk { busy: Duration::from_millis(1500), flushes: 751 };
        assert_eq!(disk(disks, (254, 0)), Some(expected));
        assert_eq!(disk(disks, (8, 0)), None, "a file system without a disk of its own");
    }

    #[test]
    fn this_process_and_this_machine_can_be_asked() {
        let own = Process::of(std::process::id()).unwrap();
        assert!(own.memory > 0);
        let machine = Machine::now(Path::new("/")).unwrap();
        assert!(machine.busy > Duration::ZERO && machine.busy <= machine.total);
        assert!(Process::of(u32::MAX).is_err());
    }
}
