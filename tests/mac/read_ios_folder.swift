// Decodes the folder of `export ios` with the keys that apple/ml-fastvlm's app decodes
// (app/FastVLM/FastVLM.swift, CodingKeys): read_ios_folder FOLDER
import Foundation

struct TextConfiguration: Codable {
    let modelType: String
    let hiddenSize: Int
    let hiddenLayers: Int
    let intermediateSize: Int
    let attentionHeads: Int
    let kvHeads: Int
    let vocabularySize: Int
    let ropeTheta: Float?
    let rmsNormEps: Float?
    let tieWordEmbeddings: Bool?

    enum CodingKeys: String, CodingKey {
        case modelType = "model_type"
        case hiddenSize = "hidden_size"
        case hiddenLayers = "num_hidden_layers"
        case intermediateSize = "intermediate_size"
        case attentionHeads = "num_attention_heads"
        case kvHeads = "num_key_value_heads"
        case vocabularySize = "vocab_size"
        case ropeTheta = "rope_theta"
        case rmsNormEps = "rms_norm_eps"
        case tieWordEmbeddings = "tie_word_embeddings"
    }
}

struct ModelConfiguration: Codable {
    let mmHiddenSize: Int
    let imageTokenIndex: Int

    enum CodingKeys: String, CodingKey {
        case mmHiddenSize = "mm_hidden_size"
        case imageTokenIndex = "image_token_index"
    }
}

struct ProcessorConfiguration: Codable {
    struct Size: Codable {
        let width: Int
        let height: Int
    }
    let cropSize: Size
    let imageMean: [Double]
    let imageStd: [Double]

    enum CodingKeys: String, CodingKey {
        case cropSize = "crop_size"
        case imageMean = "image_mean"
        case imageStd = "image_std"
    }
}

let folder = URL(fileURLWithPath: CommandLine.arguments[1])
func read<T: Decodable>(_ type: T.Type, _ name: String) throws -> T {
    try JSONDecoder().decode(type, from: Data(contentsOf: folder.appendingPathComponent(name)))
}
print(try read(TextConfiguration.self, "config.json"))
print(try read(ModelConfiguration.self, "config.json"))
print(try read(ProcessorConfiguration.self, "preprocessor_config.json"))
