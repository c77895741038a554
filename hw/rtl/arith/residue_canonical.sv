// Exit unit: from a product with the constant 2^(W*Steps) to the canonical residue.
//
//   Steps times:  q = v_0 * n0inv mod 2^W ;  v := (v + q*N) / 2^W
//   result = v >= N ? v - N : v
//
// so result = v / 2^(W*Steps) mod N in [0, N). W = WordBits, n0inv = -N^-1 mod 2^W. Steps is 1 for
// schoolbook rings and 2 for Karatsuba rings, whose words are two digits.
//
// Ranges:     v <= 2^(W*Steps) * N (the ring's product with 2^(W*Steps) is below
//             N~ + 2^(W*Steps)), so the last v < 2*N; N < 2^(W*k); 3 <= k <= MaxWords words.
// Latency:    about Steps * (2*k + 30) cycles from first word to last; y and y - N are both stored
//             and one is chosen, so neither latency nor addresses depend on data.
// Throughput: one residue in k + 9 cycles, with two steps in 2*k + 33. Gaps at the input and
//             back-pressure at the output are allowed; four results are buffered.
// Clearing:   clear_i, a pulse while nothing is on its way, zeroes what is stored;
//             clearing_o stays up as long as that takes (4 * 2^ceil(log2 MaxWords) cycles).
// Cost:       6 DSP48, a memory of 4 * MaxWords words of 2*W bits (2 RAMB36), with two steps one
//             more of MaxWords words of W bits.
// Source:     Montgomery reduction by one digit, modulo N itself.
`default_nettype none

module residue_canonical #(
    parameter int unsigned WordBits = 51,
    parameter int unsigned MaxWords = 82,
    parameter int unsigned Steps = 1,
    localparam int unsigned W = WordBits,
    localparam int unsigned AddressBits = $clog2(MaxWords)
) (
    input  wire                    clk,
    input  wire                    rst_n,
    input  wire                    clear_i,
    output logic                   clearing_o,
    input  wire  [          W-1:0] n0inv_i,
    output logic [AddressBits-1:0] n_addr_o,  // word of N wanted
    input  wire  [          W-1:0] n_data_i,  // one cycle later
    input  wire                    s_valid,
    output logic                   s_ready,
    input  wire  [          W-1:0] s_data,
    input  wire                    s_last,
    output logic                   m_valid,
    input  wire                    m_ready,
    output logic [          W-1:0] m_data,
    output logic                   m_last
);

  localparam int unsigned D = W < 35 ? (W + 2) / 3 : 17;  // as in residue_mac_word
  localparam int unsigned H = (W + 1) / 2;
  localparam int unsigned U = W - H;
  localparam int unsigned Buffers = 4;

  if (Steps < 1 || Steps > 2) begin : g_illegal
    $error("residue_canonical: one or two steps");
  end

  // ---- issue: v_0 for the quotient, then v, then a zero word that takes the last carry
  typedef enum logic [2:0] {
    StIdle,
    StQuotient,
    StStream,
    StFlush,
    StFold  // wait until the first step's v is complete
  } state_e;
  state_e state_q;
  logic [2:0] in_use_q;  // buffers given to residues
  logic [AddressBits-1:0] n_addr_q, length_in_q;
  logic final_q;  // the step under way is the last one
  // Flags of the issued word, [n]: n + 1 cycles ago.
  logic [9:0] valid_q, first_q, last_q, final_late_q;
  logic [8:0] scale_q;

  logic folded, released;
  wire [W-1:0] fold_word;
  wire again = Steps == 2 && final_q;  // words come from the first step
  wire source_last = again ? n_addr_q == length_in_q : s_last;
  wire take = state_q == StStream && (again || s_valid);
  wire scale = state_q == StFold ? folded
      : state_q == StIdle && s_valid && !clearing_o && in_use_q != 3'(Buffers);
  wire flush = state_q == StFlush;

  assign s_ready  = state_q == StStream && !again;
  assign n_addr_o = n_addr_q;

  always_ff @(posedge clk) begin
    if (!rst_n) begin
      state_q  <= StIdle;
      final_q  <= Steps == 1;
      in_use_q <= '0;
      n_addr_q <= '0;
      {valid_q, scale_q} <= '0;
    end else begin
      unique case (state_q)
        StIdle, StFold: if (scale) state_q <= StQuotient;
        StQuotient:     if (scale_q[6]) state_q <= StStream;
        StStream:       if (take & source_last) state_q <= StFlush;
        StFlush:        state_q <= final_q ? StIdle : StFold;
        default:        state_q <= StIdle;
      endcase
      if (Steps == 2 && flush) final_q <= !final_q;
      in_use_q <= in_use_q + 3'(scale && state_q == StIdle) - 3'(released);
      if (flush) n_addr_q <= '0;
      else if (take) n_addr_q <= n_addr_q + 1'b1;
      valid_q <= {valid_q[8:0], take | flush};
      scale_q <= {scale_q[7:0], scale};
    end
    first_q      <= {first_q[8:0], take && n_addr_q == '0};
    last_q       <= {last_q[8:0], flush};
    final_late_q <= {final_late_q[8:0], final_q};
    if (take & source_last) length_in_q <= n_addr_q;
  end

  // ---- q * N + v, or v_0 * n0inv
  logic [W-1:0] v1_q, v2_q, v3_q, a_q, quotient_q;
  always_ff @(posedge clk) begin
    v1_q <= again ? fold_word : s_data;
    v2_q <= v1_q;
    v3_q <= v2_q;
    a_q  <= scale_q[0] ? v1_q : last_q[0] ? '0 : n_data_i;
  end

  logic [1:0] load_b_q;
  wire load_b = scale_q[1] | (valid_q[1] & first_q[1]);
  wire clear_c = scale_q[2] | last_q[2];
  wire [3*D-1:0] b = (3 * D)'(scale_q[1] ? n0inv_i : quotient_q);
  wire [H+3*D:0] z0;
  wire [U+3*D:0] z1;
  always_ff @(posedge clk) load_b_q <= {load_b_q[0], load_b};

  residue_mac_chain #(.DigitBits(D), .ABits(H), .CBits(H + 1)) u_chain0 (
      .clk, .a_i(a_q[H-1:0]), .d_i(H'(0)), .c_i({1'b0, v3_q[H-1:0]}), .clear_c_i(clear_c), .b_i(b),
      .load_b_i({load_b_q, load_b}), .z_lo_o(z0[2*D-1:0]), .z_hi_o(z0[H+3*D:2*D])
  );
  residue_mac_chain #(.DigitBits(D), .ABits(U), .CBits(U + 1)) u_chain1 (
      .clk, .a_i(a_q[W-1:H]), .d_i(U'(0)), .c_i({1'b0, v3_q[W-1:H]}), .clear_c_i(clear_c), .b_i(b),
      .load_b_i({load_b_q, load_b}), .z_lo_o(z1[2*D-1:0]), .z_hi_o(z1[U+3*D:2*D])
  );

  // ---- words of the sum; the part above a word joins the next valid word
  logic [W:0] low_q, high_q, prev_q;
  logic [W+2:0] sum_q;
  always_ff @(posedge clk) begin
    low_q  <= (W + 1)'(z0[W-1:0]) + (W + 1)'({z1[U-1:0], H'(0)});
    high_q <= (W + 1)'(z0[W+:H]) + (W + 1)'(z1[W+U-1:U]);
    if (valid_q[8]) prev_q <= high_q;
    sum_q <= (W + 3)'(low_q) + (first_q[8] ? '0 : (W + 3)'(prev_q));
    if (clearing_o) quotient_q <= '0;
    else if (scale_q[8]) quotient_q <= low_q[W-1:0];
  end

  wire y_valid, y_first, y_last, y_final;
  wire [W-1:0] y;
  residue_normalise #(.Width(W), .GuardBits(3)) u_normalise (
      .clk, .rst_n, .s_valid(valid_q[9]), .s_first(first_q[9]), .s_last(last_q[9]), .s_tag(final_late_q[9]),
      .s_data(sum_q), .m_valid(y_valid), .m_first(y_first), .m_last(y_last), .m_tag(y_final), .m_data(y)
  );

  // ---- y and y - N side by side into one of the buffers; word 0 is zero and dropped
  wire [W-1:0] n_late;
  logic [W-1:0] n_prev_q, y_q, difference_q;
  logic borrow_q, put_q, put_last_q, put_final_q;
  logic [1:0] put_bank_q;
  logic [AddressBits-1:0] put_index_q;
  residue_delay #(.Width(W), .Cycles(12)) u_n (.clk, .d_i(a_q), .q_o(n_late));

  wire [W:0] difference = (W + 1)'(y) - (W + 1)'(n_prev_q) - (W + 1)'(borrow_q);
  always_ff @(posedge clk) begin
    if (y_valid) begin
      n_prev_q <= n_late;
      borrow_q <= ~y_first & difference[W];
    end
    y_q          <= y;
    difference_q <= difference[W-1:0];
    put_last_q   <= y_last;
    put_final_q  <= y_final;
    if (!rst_n) put_q <= 1'b0;
    else put_q <= y_valid & ~y_first;
  end

  // Clearing walks over all rows of the buffers, and so over those of the fold memory.
  logic [AddressBits+1:0] clear_index_q;
  always_ff @(posedge clk) begin
    if (!rst_n) clearing_o <= 1'b0;
    else if (clear_i) clearing_o <= 1'b1;
    else if (&clear_index_q) clearing_o <= 1'b0;
    clear_index_q <= clearing_o ? clear_index_q + 1'b1 : '0;
  end

  // ---- the first of two steps ends here and begins again
  if (Steps == 2) begin : g_fold
    wire put_fold = put_q & ~put_final_q;
    logic [W-1:0] fold[2**AddressBits];
    logic [W-1:0] fold_q;
    logic folded_q;
    wire [AddressBits-1:0] read_index = take ? n_addr_q + 1'b1 : n_addr_q;
    always_ff @(posedge clk) begin
      if (put_fold | clearing_o)
        fold[clearing_o ? clear_index_q[AddressBits-1:0] : put_index_q] <= clearing_o ? '0 : y_q;
      fold_q <= fold[read_index];
      if (!rst_n || scale) folded_q <= 1'b0;
      else if (put_fold & put_last_q) folded_q <= 1'b1;
    end
    assign fold_word = fold_q;
    assign folded    = folded_q;
  end else begin : g_no_fold
    assign fold_word = '0;
    assign folded    = 1'b0;
  end

  wire put_result = put_q & put_final_q;
  logic [2*W-1:0] buffer[Buffers*2**AddressBits];
  logic [Buffers-1:0] full_q, keep_y_q;
  logic [AddressBits-1:0] length_q[Buffers];  // index of the last word
  logic [1:0] take_bank_q;
  logic read_valid_q, read_last_q, read_keep_q;
  logic [AddressBits-1:0] take_index_q;
  logic [2*W-1:0] read_q;

  wire advance = !m_valid | m_ready;
  wire reading = full_q[take_bank_q];
  wire read_last = take_index_q == length_q[take_bank_q];
  assign released = advance & reading & read_last;

  always_ff @(posedge clk) begin
    if (!rst_n) begin
      full_q       <= '0;
      put_bank_q   <= '0;
      put_index_q  <= '0;
      take_bank_q  <= '0;
      take_index_q <= '0;
      read_valid_q <= 1'b0;
      m_valid      <= 1'b0;
    end else begin
      if (put_q) put_index_q <= put_last_q ? '0 : put_index_q + 1'b1;
      if (put_result & put_last_q) begin
        full_q[put_bank_q] <= 1'b1;
        put_bank_q         <= put_bank_q + 1'b1;
      end
      if (released) begin
        full_q[take_bank_q] <= 1'b0;
        take_bank_q         <= take_bank_q + 1'b1;
        take_index_q        <= '0;
      end else if (advance & reading) take_index_q <= take_index_q + 1'b1;
      if (advance) {m_valid, read_valid_q} <= {read_valid_q, reading};
    end
  end

  always_ff @(posedge clk) begin
    if (put_result | clearing_o)
      buffer[clearing_o ? clear_index_q : {put_bank_q, put_index_q}] <=
          clearing_o ? '0 : {y_q, difference_q};
    if (put_result & put_last_q) begin
      length_q[put_bank_q] <= put_index_q;
      keep_y_q[put_bank_q] <= borrow_q;
    end
    if (advance) begin
      read_q      <= buffer[{take_bank_q, take_index_q}];
      read_keep_q <= keep_y_q[take_bank_q];
      read_last_q <= read_last;
      m_data      <= read_keep_q ? read_q[2*W-1:W] : read_q[W-1:0];
      m_last      <= read_last_q;
    end
  end

`ifndef SYNTHESIS
  a_hold : assert property (@(posedge clk) disable iff (!rst_n)
      m_valid && !m_ready |=> m_valid && $stable({m_data, m_last}));
`endif

endmodule

`default_nettype wire
