# Written for the tests of buildit.
EAPI=7

inherit autotools flag-o-matic systemd toolchain-funcs

MY_PV="${PV/_rc/-rc}"
MY_P="${PN}-${MY_PV}"

DESCRIPTION="High-performance, distributed memory object caching system"
HOMEPAGE="https://memcached.example.org/"
SRC_URI="https://www.memcached.example.org/files/${MY_P}.tar.gz
	https://www.memcached.example.org/files/old/${MY_P}.tar.gz"

LICENSE="BSD"
SLOT="0"
KEYWORDS="~amd64 ~arm64"
IUSE="debug sasl seccomp selinux slabs-reassign ssl test"
REQUIRED_USE="selinux? ( !seccomp )"

RDEPEND="acct-user/memcached
	>=dev-libs/libevent-1.4:=
	dev-lang/perl
	sasl? ( dev-libs/cyrus-sasl )
	seccomp? ( sys-libs/libseccomp )
	selinux? ( sec-policy/selinux-memcached )
	ssl? ( >=dev-libs/openssl-1.1.1:= )"
DEPEND="${RDEPEND}
	test? ( virtual/perl-Test-Harness >=dev-perl/Cache-Memcached-1.24 )"

S="${WORKDIR}/${MY_P}"

RESTRICT="!test? ( test )"

PATCHES=(
	"${FILESDIR}/${PN}-1.6.18-banner.patch"
)

src_prepare() {
	default
	sed -i -e 's,-Werror,,g' configure.ac || die
	sed -i -e 's,AM_CONFIG_HEADER,AC_CONFIG_HEADERS,' configure.ac || die
	eautoreconf
	use slabs-reassign && append-flags -DALLOW_SLABS_REASSIGN
}

src_configure() {
	econf \
		--disable-docs \
		$(use_enable sasl) \
		$(use_enable ssl tls) \
		$(use_enable seccomp)
	# The xml2rfc tool to build the additional docs requires TCL :-(
}

src_compile() {
	# There is a heavy degree of per-object compile flags
	# Users do NOT know better than upstream. Trying to compile the testapp and
	# the -debug version with -DNDEBUG _WILL_ fail.
	append-flags -UNDEBUG -pthread
	emake testapp memcached-debug
	filter-flags -UNDEBUG
	emake
}

src_install() {
	emake DESTDIR="${D}" install
	dobin scripts/memcached-tool
	use debug && dobin memcached-debug

	dodoc AUTHORS ChangeLog NEWS README.md doc/{CONTRIBUTORS,*.txt}

	newconfd "${FILESDIR}"/memcached.confd memcached
	newinitd "${FILESDIR}"/memcached.init memcached
	systemd_dounit "${FILESDIR}"/memcached.service
}

src_test() {
	emake -j1 test
}

pkg_postinst() {
	elog "With this version of Memcached you can have multiple instances."
}
