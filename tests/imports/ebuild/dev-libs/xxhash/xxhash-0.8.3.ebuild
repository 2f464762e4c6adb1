# Written for the tests of buildit.
EAPI=8

inherit edo toolchain-funcs

MY_PN="xxHash"
MY_P="${MY_PN}-${PV}"
DESCRIPTION="A hash that is as fast as memory"
HOMEPAGE="https://xxhash.example.org/"
SRC_URI="https://github.example.org/Cyan4973/${MY_PN}/archive/v${PV}.tar.gz -> ${P}.tar.gz"
S="${WORKDIR}/${MY_P}"

LICENSE="BSD-2 GPL-2+"
SLOT="0"
KEYWORDS="~alpha amd64 ~arm64"
IUSE="cpu_flags_x86_avx2 static-libs"

src_compile() {
	PREFIX="${EPREFIX}/usr" \
	LIBDIR="${EPREFIX}/usr/$(get_libdir)" \
	emake AR="$(tc-getAR)" CC="$(tc-getCC)" \
		DISPATCH="$(usex cpu_flags_x86_avx2 1 0)" xxhsum libxxhash libxxhash.a
}

src_test() {
	emake CC="$(tc-getCC)" check
}

src_install() {
	local myemakeargs=(
		DESTDIR="${D}"
		PREFIX="${EPREFIX}/usr"
		LIBDIR="${EPREFIX}/usr/$(get_libdir)"
	)
	emake "${myemakeargs[@]}" install

	if ! use static-libs ; then
		rm "${ED}"/usr/$(get_libdir)/libxxhash.a || die
	fi
}
