# Written for the tests of buildit; of the shape that ebuilds of such libraries have.
EAPI=8

inherit libtool

DESCRIPTION="C library for encoding, decoding and changing JSON"
HOMEPAGE="https://digip.example.org/jansson/"
SRC_URI="https://digip.example.org/releases/${P}.tar.gz"

LICENSE="MIT"
SLOT="0/4"
KEYWORDS="amd64 arm64"
IUSE="doc static-libs"

BDEPEND="doc? ( dev-python/sphinx )"

src_prepare() {
	default
	sed -i -e '/-Wdeclaration-after-statement/d' CMakeLists.txt || die "sed failed"
	elibtoolize
}

src_configure() {
	econf \
		$(use_enable static-libs static) \
		--disable-Bsymbolic
}

src_compile() {
	default

	if use doc; then
		emake html
		HTML_DOCS=( doc/_build/html/. )
	fi
}

src_install() {
	default
	find "${ED}" -name '*.la' -delete || die
}
