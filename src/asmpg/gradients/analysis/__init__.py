"""The gradient laboratory: what a model does to gradients, measured, bounded and seen (section 3.2)."""

from ..fits import check_fits as check_fits
from .bounds import GradientBound as GradientBound
from .bounds import theorem1_bound as theorem1_bound
from .comparison import cosine_similarity as cosine_similarity
from .comparison import estimator_error as estimator_error
from .comparison import EstimatorError as EstimatorError
from .comparison import gradient_cosine as gradient_cosine
from .comparison import gradient_norm as gradient_norm
from .growth import growth_fit as growth_fit
from .growth import GrowthFit as GrowthFit
from .jacobian import action_jacobian as action_jacobian
from .jacobian import final_state_jacobian as final_state_jacobian
from .jacobian import first_action_jacobian as first_action_jacobian
from .jacobian import jacobian_norms as jacobian_norms
from .jacobian import operator_norm as operator_norm
from .jacobian import reach as reach
from .jacobian import state_growth as state_growth
from .landscape import action_return as action_return
from .landscape import policy_return as policy_return
from .landscape import random_direction as random_direction
from .landscape import return_landscape as return_landscape
from .nonfinite import locate_nonfinite as locate_nonfinite
from .nonfinite import NonFinite as NonFinite
from .profile import gradient_norm_profile as gradient_norm_profile
from .profile import gradient_norms as gradient_norms
from .profile import GradientNormProfile as GradientNormProfile
