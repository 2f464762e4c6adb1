# Written for the tests of buildit.
EAPI=8

inherit cmake

DESCRIPTION="Small event-driven (SAX-style) JSON parser"
HOMEPAGE="https://lloyd.example.org/yajl/"
SRC_URI="https://github.example.org/lloyd/yajl/archive/refs/tags/${PV}.tar.gz -> ${P}.tar.gz"

LICENSE="ISC"
SLOT="0/2"
KEYWORDS="amd64 ~riscv"
IUSE="static-libs"

PATCHES=( "${FILESDIR}"/${PN}-2.1.0-pkgconfig.patch )

src_prepare() {
	cmake_src_prepare
	# libraries go where the system looks for them
	sed -i -e "s:DESTINATION lib\${LIB_SUFFIX}:DESTINATION $(get_libdir):" \
		src/CMakeLists.txt || die
}

src_configure() {
	local mycmakeargs=(
		-DDOC_DIR="${EPREFIX}/usr/share/doc/${PF}"
		-DPKGCONFIG_DIR="${EPREFIX}/usr/$(get_libdir)/pkgconfig"
	)
	cmake_src_configure
}

src_install() {
	cmake_src_install
	use static-libs || find "${ED}" -name '*_s.a' -delete
}
