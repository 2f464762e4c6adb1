# Written for the tests of buildit.
EAPI=8

inherit linux-info meson shell-completion

DESCRIPTION="Sandboxes of namespaces for users without privileges"
HOMEPAGE="https://github.example.org/containers/bubblewrap/"
SRC_URI="https://github.example.org/containers/${PN}/releases/download/v${PV}/${P}.tar.xz"

LICENSE="LGPL-2+"
SLOT="0"
KEYWORDS="amd64 arm64"
IUSE="man selinux suid test"
RESTRICT="!test? ( test )"

RDEPEND="
	sys-libs/libseccomp
	sys-libs/libcap
	selinux? ( >=sys-libs/libselinux-2.1.9 )
"
DEPEND="${RDEPEND}"
BDEPEND="
	virtual/pkgconfig
	man? (
		app-text/docbook-xsl-stylesheets
		dev-libs/libxslt
	)
"

# tests require root privileges
RESTRICT+=" test"

PATCHES=(
	"${FILESDIR}"/bubblewrap-0.8.0-name.patch
)

pkg_setup() {
	if [[ ${MERGE_TYPE} != buildonly ]]; then
		CONFIG_CHECK="~UTS_NS ~IPC_NS ~USER_NS ~PID_NS ~NET_NS"
		linux-info_pkg_setup
	fi
}

src_configure() {
	local emesonargs=(
		-Dbash_completion_dir="$(get_bashcompdir)"
		-Dzsh_completion_dir="/usr/share/zsh/site-functions"
		$(meson_feature man)
		$(meson_feature selinux)
		$(meson_use test tests)
	)

	meson_src_configure
}

src_install() {
	meson_src_install
	if use suid; then
		fperms u+s /usr/bin/bwrap
	fi
}
