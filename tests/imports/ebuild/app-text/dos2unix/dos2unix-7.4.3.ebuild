# Written for the tests of buildit.
EAPI=7

inherit toolchain-funcs

DESCRIPTION="Converts line ends between DOS or Mac and Unix"
HOMEPAGE="https://waterlan.example.org/dos2unix.html https://dos2unix.example.org/"
SRC_URI="
	https://waterlan.example.org/dos2unix/${P}.tar.gz
	mirror://sourceforge/${PN}/${P}.tar.gz"

LICENSE="BSD-2"
SLOT="0"
KEYWORDS="~amd64 ~x86"
IUSE="debug nls test"
RESTRICT="!test? ( test )"

RDEPEND="
	!app-text/hd2u
	!app-text/unix2dos
	virtual/libintl"
DEPEND="${RDEPEND}"
BDEPEND="
	dev-lang/perl
	nls? ( sys-devel/gettext )
	test? ( virtual/perl-Test-Simple )"

handle_flags() {
	sed \
		-e '/^LDFLAGS/s|=|+=|' \
		-e '/CFLAGS_OS \+=/d' \
		-i Makefile || die
}

src_prepare() {
	default

	handle_flags

	use debug && ( sed -e '/^DEBUG/s:0:1:' -e '/EXTRA_CFLAGS +=/s:-g::' -i Makefile || die )
	tc-export CC
}

lintl() {
	# a function of bash that only says something
	use elibc_musl && echo "-lintl"
}

src_compile() {
	emake prefix="${EPREFIX}/usr" $(usex nls "" "ENABLE_NLS=")
}

src_test() {
	emake check
}

src_install() {
	emake DESTDIR="${D}" prefix="${EPREFIX}/usr" $(usex nls "" "ENABLE_NLS=") \
		docdir="${EPREFIX}/usr/share/doc/${PF}" install
}
