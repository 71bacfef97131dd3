//! The grippers of openpi's ALOHA models, which see a motor's angle where the robot has an opening from 0 (closed) to 1
//! (open). The two ways are no inverses of each other: the state goes through the gripper's geometry, actions are radians.
//! Source: openpi, `policies/aloha_policy.py`, `adapt_to_pi`. Called by `units`.

/// Position of the finger in metres, closed and open, of which the opening is a fraction.
const FINGER_M: (f64, f64) = (0.01844, 0.05800);
/// The motor's horn moves the finger through an arm.
const HORN_M: f64 = 0.022;
const ARM_M: f64 = 0.036;
/// The motor's angle in radians for 0 and 1 in training: encoder counts 2405 and 3110 of 4096, with 2048 as zero.
const MODEL_RAD: (f64, f64) = (0.5476, 1.6296);
/// The motor's angle in radians for an opening of 0 and of 1 in ALOHA's commands.
const COMMAND_RAD: (f64, f64) = (-0.6213, 1.4910);

/// What the model sees of an opening: the angle that the geometry gives, normalised as in training.
pub fn to_model(opening: f64) -> f64 {
    let finger = FINGER_M.0 + opening * (FINGER_M.1 - FINGER_M.0);
    let sine = (HORN_M.powi(2) + finger.powi(2) - ARM_M.powi(2)) / (2.0 * HORN_M * finger);
    (sine.clamp(-1.0, 1.0).asin() - MODEL_RAD.0) / (MODEL_RAD.1 - MODEL_RAD.0)
}

/// The opening that an action asks for. Its unit is the radian, counted from the angle that is 0 in training.
pub fn to_robot(action: f64) -> f64 {
    (action + MODEL_RAD.0 - COMMAND_RAD.0) / (COMMAND_RAD.1 - COMMAND_RAD.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_position_has_a_finite_answer() {
        for step in -300..300 {
            let opening = f64::from(step) / 100.0;
            assert!(to_model(opening).is_finite(), "{opening}");
        }
        // Where the finger is at 0 m.
        assert!(to_model(-FINGER_M.0 / (FINGER_M.1 - FINGER_M.0)).is_finite());
    }
}
