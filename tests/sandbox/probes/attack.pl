# Tries everything that a sandbox must not let through; prints one HIT line for each that works.
# Arguments: a token that only the host knows, the machine's name, then host paths to reach.
# perl's core only, no modules: syscall, socket, open. Numbers per machine, as in unistd.h.
my ($token, $machine, $port, @canaries) = @ARGV;
my $x86 = $machine eq 'x86_64';
my %nr = (
    keyctl => $x86 ? 250 : 219, add_key => $x86 ? 248 : 217, request_key => $x86 ? 249 : 218,
    bpf => $x86 ? 321 : 280, userfaultfd => $x86 ? 323 : 282, io_uring_setup => 425,
    perf_event_open => $x86 ? 298 : 241, syslog => $x86 ? 103 : 116,
    open_by_handle_at => $x86 ? 304 : 265, process_vm_readv => $x86 ? 310 : 270,
    pidfd_open => 434, ptrace => $x86 ? 101 : 117, mount => $x86 ? 165 : 40,
    umount2 => $x86 ? 166 : 39, pivot_root => $x86 ? 155 : 41, unshare => $x86 ? 272 : 97,
    setns => $x86 ? 308 : 268, chroot => $x86 ? 161 : 51, reboot => $x86 ? 169 : 142,
    swapon => $x86 ? 167 : 224, acct => $x86 ? 163 : 89, init_module => $x86 ? 175 : 105,
    settimeofday => $x86 ? 164 : 170, sethostname => $x86 ? 170 : 161,
    setuid => $x86 ? 105 : 146, setgid => $x86 ? 106 : 144, setgroups => $x86 ? 116 : 159,
    mknodat => $x86 ? 259 : 33, setxattr => $x86 ? 188 : 5, setpriority => $x86 ? 141 : 140,
    fsopen => 430, open_tree => 428, move_mount => 429, mount_setattr => 442,
);
my ($reads, $writes) = (0, 0);
sub hit { print "HIT @_\n" }
sub call { my ($name, @args) = @_; return syscall($nr{$name}, @args) != -1 }

# --- three descriptors, nothing inherited
opendir(my $fds, '/proc/self/fd') or die;
my @open;
for my $fd (grep { /^\d+$/ } readdir $fds) {
    my $file = readlink("/proc/self/fd/$fd") // '';
    push @open, $fd unless $file eq $0 || $file =~ m{^/proc/};  # perl's own: script, directory
}
hit('inherits descriptors', "@open") if "@open" ne '0 1 2';
closedir $fds;

# --- reads: nothing of the host
sub read_file { local $/; open(my $in, '<', $_[0]) or return undef; my $data = <$in>; return $data }
my @closed = (
    qw(/etc/shadow /etc/gshadow /etc/passwd /etc/machine-id /etc/hostname /etc/hosts
       /etc/resolv.conf /etc/ssh/ssh_host_ed25519_key /etc/ssl/private /root /root/.ssh
       /root/.ssh/id_ed25519 /root/.bash_history /root/.cache /root/.netrc /home
       /var/lib/dpkg/status /var/log /var/run/docker.sock /run /run/docker.sock
       /run/dbus/system_bus_socket /run/user /run/systemd /sys /sys/kernel /sys/class/net
       /sys/fs/cgroup /sys/firmware /sys/kernel/debug /boot /opt /srv /mnt
       /dev/vda /dev/sda /dev/nvme0n1 /dev/mem /dev/kmsg /dev/port /dev/kvm /dev/fuse
       /dev/net/tun /dev/loop0 /dev/loop-control /dev/vsock /dev/mapper/control
       /proc/kcore /proc/kmsg /proc/1/root/etc/shadow /proc/self/root/etc/shadow
       /proc/self/cwd/../../../etc/shadow /oldroot /newroot /tmp/root /tmp/work /tmp/skeleton /tmp/filter /tmp/.X11-unix
       ../../../../../../etc/shadow /build/../etc/shadow), @canaries);
for my $path (@closed) {
    $reads++;
    hit('reads', $path) if defined read_file($path) || opendir(my $dir, $path);
}
opendir(my $proc, '/proc') or die;
my @pids = grep { /^\d+$/ } readdir $proc;
for my $path ((map { ("/proc/$_/environ", "/proc/$_/maps", "/proc/$_/mountinfo") } @pids),
              '/proc/keys', '/proc/self/cgroup', '/proc/net/unix', '/proc/net/tcp') {
    $reads++;
    my $data = read_file($path);
    hit('finds the token in', $path) if defined $data && index($data, $token) >= 0;
}
my $buffer = "\0" x 4096;
my $vector = pack('Q Q', unpack('Q', pack('p', $buffer)), 8);  # struct iovec
my %peek = (
    'the user keyring' => sub { call('keyctl', 0, -4, 1) },
    'a key' => sub { call('add_key', 'user', 'probe', 'x', 1, -3) },
    'a requested key' => sub { call('request_key', 'user', 'probe', 0, -3) },
    'bpf' => sub { call('bpf', 0, $buffer, 64) },
    'userfaultfd' => sub { call('userfaultfd', 1) },
    'io_uring' => sub { call('io_uring_setup', 1, $buffer) },
    'perf' => sub { call('perf_event_open', $buffer, 0, -1, -1, 0) },
    'the kernel log' => sub { call('syslog', 3, $buffer, 4096) },
    'a handle' => sub { call('open_by_handle_at', 3, $buffer, 0) },
    'memory of an unknown process' => sub { call('process_vm_readv', 4000, $vector, 1, $vector, 1, 0) },
    'a pidfd of an unknown process' => sub { call('pidfd_open', 4000, 0) },
    'ptrace of an unknown process' => sub { call('ptrace', 16, 4000, 0, 0) },
    'a signal to an unknown process' => sub { kill(0, 300 .. 4000) },
);
for my $name (sort keys %peek) { $reads++; hit('gets', $name) if $peek{$name}->() }

# opening one's own uid_map is allowed, but not writing to it
sub append { open(OUT, '>>', $_[0]) or return 0; my $done = syswrite(OUT, "0 0 1\n"); close OUT; $done }

# --- writes: nothing but the work directory, /tmp and /dev/shm
for my $path (qw(/proc/sys/kernel/core_pattern /proc/sys/kernel/hostname /proc/sys/vm/drop_caches
        /proc/sys/kernel/modprobe /proc/sys/fs/binfmt_misc/register /proc/sysrq-trigger
        /proc/sys/user/max_user_namespaces /proc/irq/0/smp_affinity /proc/self/uid_map
        /proc/self/gid_map /sys/kernel/uevent_helper /sys/fs/cgroup/memory/release_agent
        /sys/power/state /usr/bin/true /usr/bin/new /bin/sh /lib/new /new /etc/passwd
        /dev/new /dev/mem /dev/vda /dev/console /files/given /files/new), @canaries) {
    $writes++;
    hit('writes', $path) if append($path);
}
my $null = "\0" x 16;
my %poke = (
    'mkdir in the root' => sub { mkdir '/newdir' },
    'mkdir in /dev' => sub { mkdir '/dev/newdir' },
    'rename in the root' => sub { rename '/usr/bin/true', '/usr/bin/false' },
    'unlink in the root' => sub { unlink '/usr/bin/cat' },
    'chmod in the root' => sub { chmod 0777, '/usr/bin/true' },
    'a hard link out of the root' => sub { link '/usr/bin/true', '/build/link' },
    'a hard link out of an input' => sub { link '/files/given', '/build/link' },
    'another owner' => sub { open(my $f, '>', '/build/mine'); chown 0, 0, '/build/mine' },
    'a block device' => sub { call('mknodat', -100, '/build/disk', 060600, 0xfe00) },
    'a character device' => sub { call('mknodat', -100, '/build/mem', 020600, 0x0101) },
    'mount tmpfs' => sub { call('mount', 'none', '/tmp', 'tmpfs', 0, 0) },
    'mount proc' => sub { call('mount', 'none', '/tmp', 'proc', 0, 0) },
    'bind mount' => sub { call('mount', '/', '/tmp', 'none', 4096, 0) },
    'remount writable' => sub { call('mount', 'none', '/', 'none', 32, 0) },
    'remount bind writable' => sub { call('mount', 'none', '/', 'none', 32 | 4096, 0) },
    'unmount' => sub { call('umount2', '/tmp', 2) },
    'pivot_root' => sub { call('pivot_root', '/tmp', '/tmp') },
    'chroot' => sub { call('chroot', '/tmp') },
    'fsopen' => sub { call('fsopen', 'tmpfs', 0) },
    'open_tree' => sub { call('open_tree', -100, '/', 1) },
    'mount_setattr' => sub { call('mount_setattr', -100, '/', 0, $buffer, 32) },
    'a user namespace' => sub { call('unshare', 0x10000000) },
    'a mount namespace' => sub { call('unshare', 0x00020000) },
    'a user and mount namespace' => sub { call('unshare', 0x10020000) },
    'the init\'s namespace' => sub { open(NS, '<', '/proc/1/ns/mnt') && call('setns', fileno(NS), 0) },
    'uid 0' => sub { call('setuid', 0) },
    'gid 0' => sub { call('setgid', 0) },
    'groups' => sub { call('setgroups', 0, 0) },
    'reboot' => sub { call('reboot', 0xfee1dead, 672274793, 0, 0) },
    'swapon' => sub { call('swapon', '/build/mine', 0) },
    'acct' => sub { call('acct', '/build/mine') },
    'a kernel module' => sub { call('init_module', $buffer, 16, '') },
    'the clock' => sub { call('settimeofday', $null, 0) },
    'the host name' => sub { call('sethostname', 'evil', 4) },
    'a file capability' => sub { call('setxattr', '/build/mine', 'security.capability', $buffer, 20, 0) },
    'a trusted attribute' => sub { call('setxattr', '/build/mine', 'trusted.x', 'x', 1, 0) },
    'a higher priority' => sub { call('setpriority', 0, 0, -5) },
    'typing into the terminal' => sub { my $c = 'x'; ioctl(STDOUT, 0x5412, $c) },
    'selecting on the console' => sub { my $c = "\2"; ioctl(STDOUT, 0x541c, $c) },
);
for my $name (sort keys %poke) { $writes++; hit('does', $name) if $poke{$name}->() }

# --- the network: none, and no way round it
my $address = pack('S n C4 x8', 2, $port, 127, 0, 0, 1);
my %net = (
    'TCP to the host' => sub { socket(S, 2, 1, 0) && connect(S, $address) },
    'UDP to the network' => sub { socket(S, 2, 2, 0) && connect(S, pack('S n C4 x8', 2, 53, 192, 0, 2, 1)) },
    'raw' => sub { socket(S, 2, 3, 1) },
    'packet' => sub { socket(S, 17, 3, 0) },
    'vsock' => sub { socket(S, 40, 1, 0) },
    'alg' => sub { socket(S, 38, 5, 0) },
    'bluetooth' => sub { socket(S, 31, 3, 0) },
    'abstract socket of the host' => sub { socket(S, 1, 1, 0) && connect(S, pack('S a*', 1, "\0$token")) },
    'socket file of the host' => sub { my ($f) = grep { /socket$/ } @canaries; socket(S, 1, 1, 0) && connect(S, pack('S a108', 1, $f)) },
);
for my $name (sort keys %net) { hit('network:', $name) if $net{$name}->() }
my @links = grep { /:/ } split /\n/, read_file('/proc/net/dev') // '';
hit('sees interfaces', @links) if @links != 1 || $links[0] !~ /^\s*lo:/;

print "TRIED $reads reads $writes writes ", scalar(keys %net), " sockets\n";
