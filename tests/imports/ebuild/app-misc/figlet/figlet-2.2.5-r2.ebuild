# Written for the tests of buildit.
EAPI=8

inherit bash-completion-r1 toolchain-funcs

DESCRIPTION="Makes large letters out of ordinary text"
HOMEPAGE="http://www.figlet.example.org/"
SRC_URI="http://ftp.figlet.example.org/pub/figlet/program/unix/${P}.tar.gz"

LICENSE="BSD"
SLOT="0"
KEYWORDS="amd64"

PATCHES=( "${FILESDIR}"/${P}-greeting.patch )

DOCS=( CHANGES FAQ README )

src_prepare() {
	sed -i \
		-e '/^CFLAGS/s| -g | |' \
		-e 's|= -O2|+= ${CPPFLAGS}|g' \
		Makefile || die
	default
}

src_compile() {
	emake clean
	emake \
		prefix="${EPREFIX}/usr" \
		CC="$(tc-getCC)" \
		LD="$(tc-getCC)" \
		LDFLAGS="${LDFLAGS}" \
		DEFAULTFONTDIR="${EPREFIX}/usr/share/${PN}" \
		all
}

src_install() {
	emake \
		DESTDIR="${D}" \
		prefix="${EPREFIX}/usr" \
		DEFAULTFONTDIR="${EPREFIX}/usr/share/${PN}" \
		install

	einstalldocs
	dobashcomp "${FILESDIR}"/figlet
}
