//! The one table of parameters. The ROS declaration, the parameter file, validation and `--help` all come from here.

use super::parameter::Allowed::{Any, NotEmpty, OneOf, Range};
use super::parameter::DefaultValue::{Bool, Float, Floats, Integer, Integers, Text, Texts};
use super::parameter::Parameter;
use crate::observe::JointConversion;

/// Every parameter of the node, in the order in which they are shown.
pub const PARAMETERS: &[Parameter] = &[
    Parameter {
        name: "checkpoint",
        default: Text(""),
        unit: "",
        allowed: NotEmpty,
        description: "Checkpoint folder: config.json, safetensors files, normalization statistics, tokenizer",
    },
    Parameter {
        name: "device",
        default: Text("cpu"),
        unit: "",
        allowed: NotEmpty,
        description: "Device that runs the model: cpu, cuda (the first NVIDIA GPU; cuda:1 is the second), \
                      tenstorrent (whatever card is there), or tenstorrent:p150, :n150, :n300",
    },
    Parameter {
        name: "dtype",
        default: Text("auto"),
        unit: "",
        allowed: OneOf(&["auto", "bf16", "f32"]),
        description: "How the CPU or a GPU stores weights: auto takes what it multiplies fast (a GPU: bf16) and says what that is; \
                      bf16 takes half the memory of f32, the reference",
    },
    Parameter {
        name: "threads",
        default: Integer(0),
        unit: "",
        allowed: Range(0.0, 1024.0),
        description: "Threads of the CPU device; 0 means one per core",
    },
    Parameter {
        name: "cuda_libraries",
        default: Text(""),
        unit: "",
        allowed: Any,
        description: "Folder with NVIDIA's libraries for device cuda, such as one that pip --target has put wheels into; empty means \
                      the variable PI0_CUDA_LIBRARIES, or where the system finds CUDA",
    },
    Parameter {
        name: "tenstorrent_weights",
        default: Text("mixed"),
        unit: "",
        allowed: OneOf(&["bfloat8_b", "mixed", "bfloat16"]),
        description: "How a Tenstorrent card stores large weights; mixed has bfloat16 in the image tower and the prefix's attention, \
                      where it counts most; bfloat16 takes 1.4 times its memory and the loop 1.7 times as long to read",
    },
    Parameter {
        name: "tenstorrent_trace_region_mb",
        default: Integer(512),
        unit: "MiB",
        allowed: Range(1.0, 16384.0),
        description: "DRAM of a Tenstorrent card that is set aside for traces: about 50 for each prompt length and number of steps",
    },
    Parameter {
        name: "tenstorrent_l1_activation_kb",
        default: Integer(0),
        unit: "KiB",
        allowed: Range(0.0, 1024.0),
        description: "L1 of each core that an activation may take on a Tenstorrent card; 0 means the card's own",
    },
    Parameter {
        name: "seed",
        default: Integer(0),
        unit: "",
        allowed: Range(0.0, i64::MAX as f64),
        description: "Seed of the noise that each chunk starts from",
    },
    Parameter {
        name: "denoise_steps",
        default: Integers(&[]),
        unit: "steps",
        allowed: Range(1.0, 1000.0),
        description: "Denoising steps; of several numbers, such as [10, 8, 5], each chunk takes the largest that fits \
                      the time left of latency_budget_ms; empty means as many as the checkpoint says",
    },
    Parameter {
        name: "cameras",
        default: Texts(&["base_0_rgb", "left_wrist_0_rgb", "right_wrist_0_rgb"]),
        unit: "",
        allowed: NotEmpty,
        description: "The model's cameras, in the order in which it was trained",
    },
    Parameter {
        name: "camera_topics",
        default: Texts(&[]),
        unit: "",
        allowed: NotEmpty,
        description: "Image topic of each camera; \"\" where the robot has no such camera",
    },
    Parameter {
        name: "camera_transports",
        default: Texts(&[]),
        unit: "",
        allowed: OneOf(&["raw", "compressed"]),
        description: "How each camera's images come: raw (sensor_msgs/Image) or compressed \
                      (sensor_msgs/CompressedImage); empty means all raw",
    },
    Parameter {
        name: "camera_missing",
        default: Texts(&[]),
        unit: "",
        allowed: OneOf(&["wait", "mask"]),
        description: "What happens while a camera gives no images, for each camera: wait (no chunks) or mask (the model \
                      is told that it has no such camera); empty means all wait",
    },
    Parameter {
        name: "camera_stamps",
        default: Texts(&[]),
        unit: "",
        allowed: OneOf(&["header", "arrival"]),
        description: "By what each camera's images count as taken: header (the driver's stamp) or arrival (when they arrive: for \
                      drivers that leave the stamp 0 or have another clock); empty means all header",
    },
    Parameter {
        name: "joint_states_topic",
        default: Texts(&["/joint_states"]),
        unit: "",
        allowed: NotEmpty,
        description: "Topic of the joint states, or a list of topics; joints are joined by name, each message may have some of them",
    },
    Parameter {
        name: "joint_stamps",
        default: Text("header"),
        unit: "",
        allowed: OneOf(&["header", "arrival"]),
        description: "By what joint states count as measured: header (the driver's stamp) or arrival (when they arrive)",
    },
    Parameter {
        name: "joints",
        default: Texts(&[]),
        unit: "",
        allowed: NotEmpty,
        description: "Joint names in the model's order, as they stand in the joint states",
    },
    Parameter {
        name: "joint_scale",
        default: Floats(&[]),
        unit: "model's unit per rad or m",
        allowed: Any,
        description: "Factor from each joint's position to what the model was trained with, which is scale x position + \
                      offset; chunks come back the same way. Degrees: 57.29578; a gripper from 0 closed to 1 open of \
                      0.04 m: 25; a joint that turns the other way: -1; empty means all 1",
    },
    Parameter {
        name: "joint_offset",
        default: Floats(&[]),
        unit: "model's unit",
        allowed: Any,
        description: "Offset of each joint from its scaled position to what the model was trained with; empty means all 0",
    },
    Parameter {
        name: "joint_conversion",
        default: Texts(&[]),
        unit: "",
        allowed: OneOf(&[JointConversion::Linear.name(), JointConversion::AlohaGripper.name()]),
        description: "What a scale and an offset cannot express, for each joint: linear (nothing) or aloha_gripper (from 0 \
                      closed to 1 open to the angle that openpi's ALOHA models see, and back); empty means all linear",
    },
    Parameter {
        name: "prompt",
        default: Text(""),
        unit: "",
        allowed: Any,
        description: "The task, until another one arrives on ~/prompt",
    },
    Parameter {
        name: "tokenizer",
        default: Text(""),
        unit: "",
        allowed: Any,
        description: "Tokenizer file (tokenizer.json or SentencePiece model); empty means the checkpoint folder's",
    },
    Parameter {
        name: "normalization",
        default: Text("checkpoint"),
        unit: "",
        allowed: OneOf(&["checkpoint", "file", "none"]),
        description: "Where normalization statistics come from: the checkpoint folder, the file norm_stats, or \
                      none at all (joints and actions as they are: only for models trained so)",
    },
    Parameter {
        name: "norm_stats",
        default: Text(""),
        unit: "",
        allowed: Any,
        description: "Normalization statistics, a file or folder, for `normalization: file`",
    },
    Parameter {
        name: "norm_stats_dataset",
        default: Text(""),
        unit: "",
        allowed: Any,
        description: "Data set whose statistics are used, where the checkpoint has those of several: lerobot's base models \
                      by name, openpi's by folder below assets; empty means the only one",
    },
    Parameter {
        name: "delta_actions",
        default: Integers(&[]),
        unit: "joints",
        allowed: Any,
        description: "Joints whose actions are differences from the state, as openpi's mask: [6, -1, 6, -1] means \
                      6 differences, 1 absolute, and again; empty means all absolute",
    },
    Parameter {
        name: "velocity_step",
        default: Floats(&[]),
        unit: "model's unit",
        allowed: Any,
        description: "For models whose actions are velocities: what an action of 1 moves each joint by from one point to the \
                      next, 0.2 rad for openpi's pi0_droid; 0 for joints whose actions are not; empty means none are",
    },
    Parameter {
        name: "control_hz",
        default: Float(50.0),
        unit: "Hz",
        allowed: Range(0.1, 1000.0),
        description: "Rate at which the points of a chunk follow each other",
    },
    Parameter {
        name: "sync_tolerance_ms",
        default: Float(20.0),
        unit: "ms",
        allowed: Range(0.0, 1000.0),
        description: "Largest difference between the stamps of one frame set",
    },
    Parameter {
        name: "sensor_timeout_ms",
        default: Float(500.0),
        unit: "ms",
        allowed: Range(1.0, 60_000.0),
        description: "A camera or joint topic that is silent for longer is reported",
    },
    Parameter {
        name: "max_image_age_ms",
        default: Float(500.0),
        unit: "ms",
        allowed: Range(1.0, 600_000.0),
        description: "No chunk leaves that was made from images older than this, by their stamps and the node's clock",
    },
    Parameter {
        name: "max_joint_age_ms",
        default: Float(500.0),
        unit: "ms",
        allowed: Range(1.0, 600_000.0),
        description: "No chunk leaves that was made from a joint state older than this, by its stamp and the node's clock",
    },
    Parameter {
        name: "latency_budget_ms",
        default: Float(50.0),
        unit: "ms",
        allowed: Range(0.1, 600_000.0),
        description: "Time from the observation's stamp until its chunk is published; every chunk that needs longer is \
                      counted with the stage that took too long",
    },
    Parameter {
        name: "on_deadline_miss",
        default: Text("publish"),
        unit: "",
        allowed: OneOf(&["publish", "drop", "hold"]),
        description: "What happens to a chunk that is later than latency_budget_ms: it is published, without the points \
                      that are past, or dropped, or the robot holds its position",
    },
    Parameter {
        name: "act_rate_hz",
        default: Float(0.0),
        unit: "Hz",
        allowed: Range(0.0, 1000.0),
        description: "Rate at which chunks are made from newer joint states while no new images come; 0 means one chunk \
                      for each frame set",
    },
    Parameter {
        name: "chunk_join",
        default: Text("auto"),
        unit: "",
        allowed: OneOf(&["auto", "replace", "blend", "guided", "trained"]),
        description: "How a chunk follows the one before: it replaces it at once; or its first blend_ms lead over to it; or it is \
                      guided towards what was sent while it is made (real-time chunking, any checkpoint); or its first points are \
                      given, for checkpoints that were trained for that; auto is trained where the checkpoint was, else guided. \
                      What is left between such a chunk and what was sent is led over as with blend. Guided and trained are compiled into the model: they cannot \
                      be switched to while it runs",
    },
    Parameter {
        name: "rtc_horizon",
        default: Integer(10),
        unit: "points",
        allowed: Range(1.0, 1024.0),
        description: "`chunk_join: guided`: how many points of what was sent count, at most; twice the delay if that is more",
    },
    Parameter {
        name: "rtc_schedule",
        default: Text("linear"),
        unit: "",
        allowed: OneOf(&["linear", "exp", "ones", "zeros"]),
        description: "`chunk_join: guided`: how the weight of these points falls behind the delay: evenly, more quickly, not at \
                      all, or at once",
    },
    Parameter {
        name: "rtc_max_guidance",
        default: Float(10.0),
        unit: "",
        allowed: Range(0.0, 1000.0),
        description: "`chunk_join: guided`: the guidance is never stronger; more than there are denoising steps overshoots. Read when the \
                      node is configured",
    },
    Parameter {
        name: "rtc_delay_ms",
        default: Float(0.0),
        unit: "ms",
        allowed: Range(0.0, 10_000.0),
        description: "`chunk_join: guided` and `trained`: how long after its observation a chunk leaves; 0 means as measured: \
                      what nine of ten recent chunks took, and at least what the last one did",
    },
    Parameter {
        name: "blend_ms",
        default: Float(100.0),
        unit: "ms",
        allowed: Range(1.0, 10_000.0),
        description: "How long chunk_join leads from one chunk to the next, along a cosine (blend, guided, trained)",
    },
    Parameter {
        name: "interpolation",
        default: Text("linear"),
        unit: "",
        allowed: OneOf(&["linear", "spline"]),
        description: "How joints move between the points of a chunk: linear (trajectories have positions alone, streams move \
                      on straight lines) or spline (trajectories have velocities, streams follow the same smooth curve)",
    },
    Parameter {
        name: "outputs",
        default: Texts(&[]),
        unit: "",
        allowed: Any,
        description: "Names of the outputs that the robot listens to, beside ~/action_chunk with everything; each has an entry \
                      in each of the lists below; empty means none",
    },
    Parameter {
        name: "output_topics",
        default: Texts(&[]),
        unit: "",
        allowed: Any,
        description: "Topic of each output",
    },
    Parameter {
        name: "output_types",
        default: Texts(&[]),
        unit: "",
        allowed: OneOf(&["trajectory", "positions", "joint_state"]),
        description: "What each output sends: trajectory (trajectory_msgs/JointTrajectory, each chunk), positions \
                      (std_msgs/Float64MultiArray) or joint_state (sensor_msgs/JointState), both a stream at stream_hz; \
                      empty means all trajectory",
    },
    Parameter {
        name: "output_joints",
        default: Texts(&[]),
        unit: "",
        allowed: Any,
        description: "The joints of each output, in its order, with spaces between their names; \"\" or an empty list mean all",
    },
    Parameter {
        name: "output_stamps",
        default: Texts(&[]),
        unit: "",
        allowed: OneOf(&["observation", "now", "zero"]),
        description: "The stamp that each trajectory's times count from: the observation's, now (when it is sent), or zero, \
                      which controllers read as: when it comes; points are for the same moments in all three; empty means \
                      all observation",
    },
    Parameter {
        name: "stream_hz",
        default: Float(100.0),
        unit: "Hz",
        allowed: Range(1.0, 1000.0),
        description: "Rate at which positions and joint_state outputs are sent",
    },
    Parameter {
        name: "urdf",
        default: Text(""),
        unit: "",
        allowed: Any,
        description: "URDF file with the joints' position and velocity limits; the lists below win over it",
    },
    Parameter {
        name: "joint_position_min",
        default: Floats(&[]),
        unit: "rad or m",
        allowed: Any,
        description: "Lowest position of each joint; a chunk that goes below makes the robot hold; empty means the URDF's",
    },
    Parameter {
        name: "joint_position_max",
        default: Floats(&[]),
        unit: "rad or m",
        allowed: Any,
        description: "Highest position of each joint; a chunk that goes above makes the robot hold; empty means the URDF's",
    },
    Parameter {
        name: "joint_velocity_max",
        default: Floats(&[]),
        unit: "rad/s or m/s",
        allowed: Range(1e-6, 1e6),
        description: "Largest velocity of each joint between the points of a chunk, and from one chunk to the next; empty \
                      means the URDF's",
    },
    Parameter {
        name: "joint_step_max",
        default: Floats(&[]),
        unit: "rad or m",
        allowed: Range(1e-6, 1e6),
        description: "Largest step of each joint from where it was sent before (or stands) to a chunk's first point, and \
                      from point to point; empty means any",
    },
    Parameter {
        name: "require_enable",
        default: Bool(false),
        unit: "",
        allowed: Any,
        description: "Whether nothing is sent until the service ~/enable (std_srvs/SetBool) is called with true",
    },
    Parameter {
        name: "watchdog_ms",
        default: Float(2000.0),
        unit: "ms",
        allowed: Range(10.0, 600_000.0),
        description: "A control loop that shows no sign of life for longer is reported as stalled, and what it makes then \
                      is not sent; must be longer than a cycle",
    },
    Parameter {
        name: "control_core",
        default: Integer(-1),
        unit: "",
        allowed: Range(-1.0, 4095.0),
        description: "CPU core that the control thread stays on; -1 means any that no thread of the CPU device stays on",
    },
    Parameter {
        name: "control_priority",
        default: Integer(0),
        unit: "",
        allowed: Range(0.0, 99.0),
        description: "SCHED_FIFO priority of the control thread and of those that run the CPU device and publish (one more for streams, \
                      one less for decoding images), with all memory locked; 0 means ordinary scheduling",
    },
    Parameter {
        name: "diagnostics_hz",
        default: Float(1.0),
        unit: "Hz",
        allowed: Range(0.1, 100.0),
        description: "Rate of /diagnostics",
    },
    Parameter {
        name: "dashboard",
        default: Text("127.0.0.1:9464"),
        unit: "",
        allowed: Any,
        description: "Address and port of the dashboard (page, /metrics for Prometheus, /healthz); anybody who can \
                      connect may read it, so other machines must be let in by address: 0.0.0.0:9464 is all; empty \
                      means no dashboard",
    },
    Parameter {
        name: "latency_folder",
        default: Text(""),
        unit: "",
        allowed: Any,
        description: "Folder for files with all latencies (HdrHistogram's .hgrm, and JSON), written when the node stops \
                      and when the service ~/dump_latency is called; empty means none",
    },
    Parameter {
        name: "autostart",
        default: Bool(true),
        unit: "",
        allowed: Any,
        description: "Whether the node configures and activates itself; with false it waits for the lifecycle services \
                      (`ros2 lifecycle set`, a lifecycle manager)",
    },
];

/// What may change while the loop runs; everything else is read when the node is configured.
pub const CHANGEABLE: &[&str] = &[
    "prompt",
    "sync_tolerance_ms",
    "sensor_timeout_ms",
    "max_image_age_ms",
    "max_joint_age_ms",
    "latency_budget_ms",
    "on_deadline_miss",
    "act_rate_hz",
    "chunk_join",
    "blend_ms",
    "rtc_horizon",
    "rtc_schedule",
    "rtc_delay_ms",
    "joint_position_min",
    "joint_position_max",
    "joint_velocity_max",
    "joint_step_max",
    "diagnostics_hz",
];
