# Written for the tests of buildit.
EAPI=8

inherit autotools bash-completion-r1

MY_P="${PN}-${PV/_/-}"
DESCRIPTION="Terminal multiplexer"
HOMEPAGE="https://tmux.example.org/"
SRC_URI="https://github.example.org/tmux/tmux/releases/download/${PV}/${MY_P}.tar.gz"
[[ "${PV}" == *_rc* ]] || KEYWORDS="~amd64 ~arm64"
S="${WORKDIR}/${MY_P}"

LICENSE="ISC"
SLOT="0"
IUSE="debug selinux systemd utempter vim-syntax"

DEPEND="
	dev-libs/libevent:=
	sys-libs/ncurses:=
	systemd? ( sys-apps/systemd:= )
	utempter? ( sys-libs/libutempter )
	kernel_Darwin? ( dev-libs/libutf8proc:= )
"
BDEPEND="
	virtual/pkgconfig
	|| ( app-alternatives/yacc dev-util/byacc )
"
RDEPEND="
	${DEPEND}
	selinux? ( sec-policy/selinux-screen )
	vim-syntax? ( app-vim/vim-tmux )
"

DOCS=( CHANGES README )

PATCHES=(
	"${FILESDIR}"/${PN}-3.3a-greeting.patch
)

src_prepare() {
	# respect CFLAGS and don't add some include paths
	sed \
		-e 's:-O0::;s:-O2::' \
		-e '/CFLAGS/s:-g::' \
		-e '/CPPFLAGS/s:-I/usr/local/include::' \
		-i Makefile.am || die

	default
	eautoreconf
}

src_configure() {
	local myeconfargs=(
		--sysconfdir="${EPREFIX}"/etc
		$(use_enable debug)
		$(use_enable systemd)
		$(use_enable utempter)

		# For now, we only expose this for macOS, because
		# upstream strongly encourage it.
		--disable-utf8proc
	)

	econf "${myeconfargs[@]}"
}

src_install() {
	default

	newbashcomp "${FILESDIR}"/tmux.bash tmux
	einstalldocs

	dodoc example_tmux.conf
	docompress -x /usr/share/doc/${PF}/example_tmux.conf
}

pkg_postinst() {
	if ! ver_test 1.9a -gt ${REPLACING_VERSIONS} ; then
		ewarn "Some configuration options changed in this release."
	fi
}
