# Written for the tests of buildit.
EAPI=8

inherit multilib-minimal

MY_P="${P}-stable"
DESCRIPTION="Calls functions when a file descriptor, a signal or a clock has something"
HOMEPAGE="https://libevent.example.org/"
SRC_URI="https://github.example.org/${PN}/${PN}/releases/download/release-${PV}-stable/${MY_P}.tar.gz -> ${P}.tar.gz"
S="${WORKDIR}/${MY_P}"

LICENSE="BSD"
SLOT="0/2.1-7"
KEYWORDS="amd64 arm64"
IUSE="+clock-gettime debug malloc-replacement mbedtls +ssl static-libs test verbose-debug"
RESTRICT="!test? ( test )"

DEPEND="
	mbedtls? ( net-libs/mbedtls:=[${MULTILIB_USEDEP}] )
	ssl? ( >=dev-libs/openssl-1.0.1h-r2:=[${MULTILIB_USEDEP}] )
"
RDEPEND="
	${DEPEND}
	!<=dev-libs/9libs-1.0
"

DOCS=( README.md ChangeLog{,-1.4,-2.0} whatsnew-2.{0,1}.txt )
MULTILIB_WRAPPED_HEADERS=( /usr/include/event2/event-config.h )

multilib_src_configure() {
	# fix out-of-source builds
	mkdir -p test || die

	ECONF_SOURCE="${S}" \
	econf \
		$(use_enable clock-gettime) \
		$(use_enable debug debug-mode) \
		$(use_enable malloc-replacement malloc-replacement) \
		$(use_enable mbedtls) \
		$(use_enable ssl openssl) \
		$(use_enable static-libs static) \
		$(use_enable test libevent-regress) \
		$(use_enable verbose-debug) \
		--disable-samples
}

src_test() {
	# don't waste time on rebuilding the tests
	emake -j1 verify
}

multilib_src_install_all() {
	einstalldocs
	find "${ED}" -name '*.la' -delete || die
}
