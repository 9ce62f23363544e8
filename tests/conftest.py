"""Every test runs with masam's annotations checked at run time: shapes by jaxtyping, types by beartype."""

from jaxtyping import install_import_hook

install_import_hook("masam", "beartype.beartype")
