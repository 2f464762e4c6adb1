# Written for the tests of buildit.
EAPI=8

inherit autotools flag-o-matic

if [[ ${PV} == *9999* ]] ; then
	EGIT_REPO_URI="https://github.example.org/vasi/${PN}.git"
	inherit git-r3
else
	SRC_URI="https://github.example.org/vasi/${PN}/releases/download/v${PV}/${P}.tar.xz"
	KEYWORDS="~amd64 ~x86"
fi

DESCRIPTION="Parallel, indexing version of xz"
HOMEPAGE="https://github.example.org/vasi/pixz"

LICENSE="BSD-2"
SLOT="0"
IUSE="+man static"

LIB_DEPEND=">=app-arch/libarchive-2.8:=[static-libs(+)]
	>=app-arch/xz-utils-5[static-libs(+)]"
RDEPEND="!static? ( ${LIB_DEPEND//\[static-libs(+)]} )"
DEPEND="${RDEPEND}
	static? ( ${LIB_DEPEND} )"
BDEPEND="virtual/pkgconfig
	man? ( app-text/asciidoc dev-libs/libxslt )"

src_prepare() {
	default
	sed -i -e 's/^AC_CHECK_PROG(\[A2X\].*//' configure.ac || die
	eautoreconf
}

src_configure() {
	use static && append-ldflags -static
	append-flags -std=gnu99
	# the build reads MANPAGE
	econf $(use_with man manpage)
}

src_install() {
	default
	[[ ${PV} == *9999* ]] && doman src/pixz.1
}
